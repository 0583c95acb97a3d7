"""Hostile clients beside innocent ones: responses, latency and memory of `e0 serve`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from e0_lightning.benchmarks.faults.results import Results, Trial

MAX_LATENCY, MAX_MEMORY = 3.0, 1.1
"""Largest 95th percentile of the latency beside hostile clients, and largest memory after them, as
multiples of those before."""

INNOCENT, HOSTILE = "innocent clients beside hostile ones", "hostile clients"


class Load(NamedTuple):
    """Results of innocent clients."""

    p95: float
    """95th percentile of the latency, milliseconds."""
    memory: float
    """The server's resident memory afterwards, MiB."""


def run_script(name: str, *arguments: float) -> subprocess.Popen[bytes]:
    """Start a script of clients, which prints JSON."""
    folder = Path(__file__).parents[1]
    command = [sys.executable, str(folder / name), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def run_clients(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """Latencies, wrong responses and errors of innocent clients."""
    output, _ = run_script("load_clients.py", port, clients, seconds).communicate()
    results: dict[str, Any] = json.loads(output)
    return results


def attack(results: Results, process: subprocess.Popen[bytes], port: int, seconds: float) -> str:
    """Load a server alone, beside hostile clients, and alone again.

    Args:
        results: Where the outcomes are added.
        process: The server.
        port: Its port.
        seconds: Length of each of the three phases.

    Returns:
        Latencies and memory in one line.
    """
    loads = []
    for phase in ("warm-up", "quiet", "hostile", "afterwards"):
        attackers = None
        if phase == "hostile":
            attackers = run_script("hostile_clients.py", port, seconds)
        served = run_clients(port, 8, seconds)
        if attackers is not None:
            attacks = json.loads(attackers.communicate()[0])
            add_attacks(results, attacks)
        add_responses(results, served)
        p95 = float(np.quantile(served["latencies"] or [np.inf], 0.95)) * 1000
        loads.append(Load(p95, resident_memory(process.pid)))
    _, quiet, hostile, after = loads
    if process.poll() is not None:
        results.add(INNOCENT, Trial("crashed", f"the server exited with {process.returncode}"))
    latency, memory = hostile.p95 / quiet.p95, after.memory / quiet.memory
    if latency > MAX_LATENCY:
        results.add(INNOCENT, Trial("hung", f"p95 is {latency:.1f} times the quiet one"))
    if memory > MAX_MEMORY:
        results.add(INNOCENT, Trial("hung", f"{memory:.2f} times the memory of before is kept"))
    return (
        f"8 clients: p95 {quiet.p95:.0f} ms alone, {hostile.p95:.0f} ms beside hostile clients "
        f"({latency:.2f} times); memory {quiet.memory:.0f} MiB before, {after.memory:.0f} MiB "
        f"after ({memory:.2f} times)"
    )


def add_attacks(results: Results, attacks: dict[str, dict[str, int]]) -> None:
    """Count refused attacks as clear errors, and accepted frames as wrong."""
    for name, counts in attacks.items():
        results.add(HOSTILE, Trial("clear error"), counts["refused"])
        results.add(HOSTILE, Trial("wrong", f"{name}: accepted"), counts["accepted"])


def add_responses(results: Results, served: dict[str, Any]) -> None:
    """Count the responses to innocent clients."""
    right = len(served["latencies"]) - served["wrong"]
    results.add(INNOCENT, Trial("read right"), right)
    results.add(INNOCENT, Trial("wrong", "another shape of actions"), served["wrong"])
    for error in served["errors"]:
        results.add(INNOCENT, Trial("hung" if "no response" in error else "crashed", error))


def resident_memory(pid: int) -> float:
    """Resident memory of a process in MiB; NaN without /proc."""
    path = Path(f"/proc/{pid}/statm")
    return int(path.read_text().split()[1]) * 4096 / 2**20 if path.exists() else float("nan")
