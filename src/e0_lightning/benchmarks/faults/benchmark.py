"""`e0 benchmark faults`: what becomes of injected faults."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from e0_lightning.benchmarks.faults.cases import CommandCase, command_cases
from e0_lightning.benchmarks.faults.clients import attack
from e0_lightning.benchmarks.faults.disk import cannot_mount, full_disks, limited_files
from e0_lightning.benchmarks.faults.files import damaged_files
from e0_lightning.benchmarks.faults.kills import killed_commands
from e0_lightning.benchmarks.faults.results import Results, Trial
from e0_lightning.benchmarks.faults.samples import Samples, make_samples
from e0_lightning.benchmarks.faults.servers import killed_servers, serving
from e0_lightning.benchmarks.faults.sharing import two_at_once

KINDS = ("files", "kills", "disk", "sharing", "clients")
"""Kinds of faults."""

FULL_DISK = "checkpoint: full disk, $TMPDIR on another"


def benchmark(
    seed: int = 0,
    flips: int = 200,
    truncations: int = 20,
    kills: int = 10,
    full_disk_runs: int = 3,
    seconds: float = 20.0,
    only: list[str] | None = None,
) -> None:
    """Damage files, kill processes, fill disks and attack the server, and count what happens.

    Works on demonstrations and a tiny policy of its own, in a temporary folder. A fault ends well
    if everything is "read right" or refused with a "clear error". Faults of collection and
    evaluation need ManiSkill and a renderer, and are skipped without.

    Args:
        seed: Seed of positions and moments.
        flips: Flipped bits of each kind of file.
        truncations: Truncations of each kind of file.
        kills: Kills of each command.
        full_disk_runs: Trainings on a full disk.
        seconds: Length of each phase of the attack on the server.
        only: Kinds of faults, of files, kills, disk, sharing, clients; None for all.

    Raises:
        ValueError: If there is no such kind.
        SystemExit: With status 1 if anything is read wrong, hangs or crashes.
    """
    if unknown := set(only or []) - set(KINDS):
        raise ValueError(f"only: expected names among {', '.join(KINDS)}, got {sorted(unknown)}.")
    chosen, results = only or KINDS, Results()
    with tempfile.TemporaryDirectory(prefix="e0_faults_") as name:
        folder = Path(name)
        samples = make_samples(folder / "samples")
        rng = {kind: np.random.default_rng([seed, n]) for n, kind in enumerate(KINDS)}
        if "files" in chosen:
            damaged = damaged_files(samples, folder / "files", rng["files"], flips, truncations)
            for fault, trial in damaged:
                results.add(fault, trial)
        for case, missing in command_cases(samples, folder):
            for fault, trials in _faults_of(case, chosen, rng, kills, full_disk_runs):
                _add(results, fault, trials, missing)
        if "kills" in chosen:
            served = killed_servers(samples.checkpoint, folder / "serve", rng["kills"], kills)
            _add(results, "serve: SIGKILL", served)
        measured = _attack(results, samples, folder, seconds) if "clients" in chosen else ""
    print(f"\n{results.table()}\n\n{measured}Seed {seed}; {platform.machine()}, {_cores()} cores.")
    if results.failures:
        sys.exit(1)


def _faults_of(
    case: CommandCase,
    chosen: Sequence[str],
    rng: dict[str, np.random.Generator],
    kills: int,
    full_disk_runs: int,
) -> Iterator[tuple[str, Iterable[Trial]]]:
    """Faults of a command, each with its trials, which start when they are iterated over."""
    if "kills" in chosen:
        yield f"{case.name}: SIGKILL", killed_commands(case, rng["kills"], kills)
    if "sharing" in chosen:
        yield f"{case.name}: twice at once", two_at_once(case)
    if "disk" in chosen and case.name == "fit":
        yield "checkpoint: file size limit", limited_files(case, rng["disk"], full_disk_runs)
        yield FULL_DISK, full_disks(case, rng["disk"], full_disk_runs)


def _add(results: Results, fault: str, trials: Iterable[Trial], missing: str = "") -> None:
    if fault == FULL_DISK:
        missing = cannot_mount()
    if missing:
        results.skip(fault, missing)
        return
    for trial in trials:
        results.add(fault, trial)


def _attack(results: Results, samples: Samples, folder: Path, seconds: float) -> str:
    """Attack a server; returns its latencies and memory, with a line break."""
    with serving(samples.checkpoint, folder / "attacked") as (process, port):
        return attack(results, process, port, seconds) + "\n"


def _cores() -> int:
    return len(os.sched_getaffinity(0))
