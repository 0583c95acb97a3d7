"""SIGKILL at random moments; then the same command runs again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from e0_lightning.benchmarks.faults.cases import CommandCase, checkpoints
from e0_lightning.benchmarks.faults.commands import end_group, first_file, run, start
from e0_lightning.benchmarks.faults.results import Trial


def killed_commands(case: CommandCase, rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Kill a command at a random moment after its first file, run it again, compare the results."""
    seconds, expected = case.reference
    for number in range(count):
        folder, share = case.folder / f"killed_{number}", rng.random()
        process = start(case.command(folder), folder)
        first_file(folder, process)
        time.sleep(share * seconds)
        # Only this process: those that it started have to notice by themselves.
        process.kill()
        process.wait()
        yield _resume(case, folder, expected, f"killed after {share:.0%} of its time, {folder}")
        end_group(process)


def _resume(case: CommandCase, folder: Path, expected: list[object], fault: str) -> Trial:
    try:
        checkpoints(folder)
        ended = run(case.command(folder), folder)
        if ended.status != 0:
            return Trial("crashed" if ended.status else "hung", f"{fault}: {ended.error}")
        found = case.resumed(folder)
    except (ValueError, OSError) as error:
        return Trial("wrong", f"{fault}: {error}")
    if found == expected:
        return Trial("read right")
    return Trial("wrong", f"{fault}: expected {expected}, got {found}")
