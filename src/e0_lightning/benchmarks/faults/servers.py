"""`e0 serve` in a process of its own, killed at random moments and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from e0_lightning.benchmarks.faults.clients import run_clients
from e0_lightning.benchmarks.faults.commands import TIMEOUT, e0, end_group, finish, start
from e0_lightning.benchmarks.faults.results import Trial


@contextmanager
def serving(checkpoint: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Serve a checkpoint; the context is the process and its port.

    Raises:
        RuntimeError: If the server does not start.
    """
    command, port = _serve(checkpoint)
    process = start(command, folder)
    try:
        if not is_healthy(process, port):
            raise RuntimeError(f"e0 serve does not start: {finish(process, folder, 1.0).error}")
        yield process, port
    finally:
        end_group(process)


def killed_servers(
    checkpoint: Path, folder: Path, rng: np.random.Generator, count: int
) -> Iterator[Trial]:
    """Kill `e0 serve` while it starts or serves, start it again on its port, and act."""
    began = time.monotonic()
    with serving(checkpoint, folder):
        seconds = time.monotonic() - began + 2.0
    command, port = _serve(checkpoint)
    for _ in range(count):
        share = rng.random()
        process = start(command, folder)
        with suppress(subprocess.TimeoutExpired):
            process.wait(share * seconds)
        end_group(process)
        yield _serve_again(command, folder, port, f"killed after {share:.0%} of its start")


def is_healthy(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until a server answers; false if it ends or does not answer in time."""
    deadline = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz"):
            return True
        time.sleep(0.1)
    return False


def _serve(checkpoint: Path) -> tuple[list[str], int]:
    """Command line of a server, and a free port for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return e0("serve", f"--checkpoint={checkpoint}", f"--port={port}"), port


def _serve_again(command: list[str], folder: Path, port: int, fault: str) -> Trial:
    process = start(command, folder)
    if not is_healthy(process, port):
        ended = finish(process, folder, timeout=1.0)
        return Trial("crashed" if ended.status else "hung", f"{fault}: {ended.error}")
    served = run_clients(port, clients=1, seconds=0.5)
    process.send_signal(signal.SIGTERM)
    ended = finish(process, folder)
    if served["errors"] or not served["latencies"] or ended.status != 0:
        return Trial("crashed", f"{fault}: {served['errors']}, exit status {ended.status}")
    return Trial("wrong", fault) if served["wrong"] else Trial("read right")
