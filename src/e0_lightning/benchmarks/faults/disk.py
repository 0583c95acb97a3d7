"""A disk that is full when a checkpoint is saved: the earlier ones stay complete."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from e0_lightning.benchmarks.faults.cases import CommandCase, checkpoints
from e0_lightning.benchmarks.faults.commands import finish, refusal, run, start
from e0_lightning.benchmarks.faults.results import Trial
from e0_lightning.benchmarks.faults.samples import TRAINING_STEPS

NAMESPACE = ("unshare", "--map-root-user", "--mount")
"""Prefix of a command that may mount file systems, which are gone when it ends."""

_ON_SMALL_DISK = """
mkdir disk && mount -t tmpfs -o size="$0" tmpfs disk || exit 9
"$@"
status=$?
cp -r disk/. kept
exit $status
"""
"""Shell script for a namespace: runs a command, and keeps what it leaves on a disk of a size."""


def limited_files(case: CommandCase, rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Resume a training whose files may not become as large as a checkpoint.

    A limit on the size of files fails in a write as a full disk does, and needs no privileges.
    """
    unlimited = case.folder / "unlimited"
    _train_half(case, unlimited)
    run(case.command(unlimited), unlimited)
    expected = case.resumed(unlimited)
    for number in range(count):
        folder = case.folder / f"limited_{number}"
        _train_half(case, folder)
        size = max(path.stat().st_size for path in folder.rglob("last.ckpt"))
        limit = int(rng.uniform(0.2, 1.0) * size)
        process = start(case.command(folder), folder)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        trial = refusal(finish(process, folder))
        yield trial if trial.outcome != "clear error" else _resume(case, folder, expected)


def _train_half(case: CommandCase, folder: Path) -> None:
    run([*case.command(folder), f"--trainer.max_steps={TRAINING_STEPS // 2}"], folder)


def full_disks(case: CommandCase, rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Train on a disk with room for one to three checkpoints, with ``$TMPDIR`` on another disk."""
    _, expected = case.reference
    size = max(path.stat().st_size for path in (case.folder / "reference").rglob("last.ckpt"))
    for number in range(count):
        folder = case.folder / f"full_disk_{number}"
        (folder / "tmp").mkdir(parents=True)
        available = int(rng.uniform(1.2, 3.0) * size)
        script = [*NAMESPACE, "sh", "-c", _ON_SMALL_DISK, str(available)]
        command = [*script, *case.command(folder / "disk")]
        trial = refusal(run(command, folder, TMPDIR=str(folder / "tmp")))
        if trial.outcome != "clear error":
            yield trial
            continue
        shutil.move(folder / "kept", folder / "resumed")
        yield _resume(case, folder / "resumed", expected)


def cannot_mount() -> str:
    """Why no small disk can be mounted, empty if one can."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", folder]
        has_unshare = shutil.which("unshare") is not None
        if has_unshare and run(command, Path(folder)).status == 0:
            return ""
    return "no file system can be mounted"


def _resume(case: CommandCase, folder: Path, expected: list[object]) -> Trial:
    """After a clear error: every checkpoint loads, and the training resumes to its end."""
    try:
        checkpoints(folder)
        ended = run(case.command(folder), folder)
        if ended.status != 0:
            return Trial("crashed", f"not resumed: {ended.error}")
        found = case.resumed(folder)
    except ValueError as error:
        return Trial("wrong", str(error))
    return Trial("clear error") if found == expected else Trial("wrong", f"got {found}, {folder}")
