"""Command lines of this package, run in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from e0_lightning.benchmarks.faults.results import Trial

TIMEOUT = 300.0
"""Seconds after which a command counts as hung."""

ERRORS = "stderr.txt"
"""File in the working directory with the standard error of a command."""


class Ended(NamedTuple):
    """End of a command."""

    status: int | None
    """Exit status; None if it did not end in time."""
    error: str
    """The last lines of its standard error."""


def lightning(*words: str) -> list[str]:
    """Command line of ``lightning``."""
    return [sys.executable, "-m", "e0_lightning.cli", *words]


def e0(*words: str) -> list[str]:
    """Command line of ``e0``."""
    return [sys.executable, "-c", "from e0_lightning.cli.e0_cli import e0; e0()", *words]


def start(
    command: list[str], folder: Path, errors: str = ERRORS, **environment: str
) -> subprocess.Popen[bytes]:
    """Start a command in a folder and a process group of its own, its errors in a file there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / errors).open("wb") as stderr:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
        )


def finish(
    process: subprocess.Popen[bytes], folder: Path, timeout: float = TIMEOUT, errors: str = ERRORS
) -> Ended:
    """Wait for the end of a command, and end what is left of its process group."""
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        status = None
    end_group(process)
    lines = (folder / errors).read_text(errors="replace").strip().splitlines()
    return Ended(status, "\n".join(lines[-30:]))


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with the processes that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(command: list[str], folder: Path, **environment: str) -> Ended:
    """Run a command to its end."""
    return finish(start(command, folder, **environment), folder)


def refusal(ended: Ended) -> Trial:
    """Outcome of a command that did not succeed: one paragraph is a clear error."""
    if ended.status is None:
        return Trial("hung", ended.error)
    last = ended.error.splitlines()[-1:] or [""]
    is_clear = ended.status == 1 and last[0].startswith(("lightning: ", "e0: "))
    return Trial("clear error" if is_clear else "crashed", f"{ended.status}: {ended.error}")


def first_file(folder: Path, process: subprocess.Popen[bytes]) -> float:
    """Wait until a command writes its first file, and return the time."""
    while process.poll() is None and all(each.name == ERRORS for each in folder.iterdir()):
        time.sleep(0.02)
    return time.monotonic()
