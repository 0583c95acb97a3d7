"""Commands whose interruption is tried: how they start, resume, and what they must produce."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from e0_lightning.benchmarks.faults.commands import e0, finish, first_file, lightning, run, start
from e0_lightning.benchmarks.faults.files import demos_hash, file_hash
from e0_lightning.benchmarks.faults.samples import TASK, Samples

COLLECTED = "collected.h5"
NUM_COLLECTED = 3


class CommandCase:
    """A command that runs in a folder of its own.

    Args:
        name: Its verb.
        command: The command line, given the folder: a resumed run may name a checkpoint in it.
        results: What a folder holds at the end, as values that can be compared.
        folder: Where the uninterrupted run and the trials lie.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[Path], list[str]],
        results: Callable[[Path], list[Any]],
        folder: Path,
    ) -> None:
        self.name, self.command, self.results, self.folder = name, command, results, folder

    @cached_property
    def reference(self) -> tuple[float, list[Any]]:
        """Seconds from the first file to the end, and results, of an uninterrupted run.

        Raises:
            RuntimeError: If the command fails.
        """
        folder = self.folder / "reference"
        process = start(self.command(folder), folder)
        began = first_file(folder, process)
        ended = finish(process, folder)
        if ended.status != 0:
            raise RuntimeError(f"{self.name} fails without any fault: {ended.error}")
        return time.monotonic() - began, self.results(folder)

    def resumed(self, folder: Path) -> list[Any]:
        """Results of the last run in a folder: each training has a result of its own."""
        found = self.results(folder)
        return found[-1:] if self.name == "fit" else found


def training(samples: Samples, folder: Path) -> CommandCase:
    """`lightning fit`, resumed from its last checkpoint where there is one."""

    def command(run_folder: Path) -> list[str]:
        last = sorted(run_folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
        resume = [f"--ckpt_path={path}" for path in last[-1:]]
        root = f"--trainer.default_root_dir={run_folder}"
        return lightning("fit", f"--config={samples.training}", root, *resume)

    return CommandCase("fit", command, checkpoints, folder / "fit")


def checkpoints(folder: Path) -> list[Any]:
    """Hash of the last checkpoint of each run, after every checkpoint was loaded.

    Raises:
        ValueError: If a checkpoint cannot be loaded.
    """
    hashes = {path: file_hash(path) for path in sorted(folder.rglob("*.ckpt"))}
    return [found for path, found in hashes.items() if path.name == "last.ckpt"]


def evaluation(samples: Samples, folder: Path) -> CommandCase:
    """`lightning test`, which resumes by itself."""

    def command(run_folder: Path) -> list[str]:
        root = f"--trainer.default_root_dir={run_folder}"
        checkpoint = f"--ckpt_path={samples.checkpoint}"
        return lightning("test", f"--config={samples.evaluation}", root, checkpoint)

    def results(run_folder: Path) -> list[Any]:
        report = json.loads((run_folder / "report/results.json").read_text())
        keys = ("task", "seed", "success", "steps", "error")
        return [[episode[key] for key in keys] for episode in report["episodes"]]

    return CommandCase("test", command, results, folder / "test")


def collection(folder: Path) -> CommandCase:
    """`e0 collect maniskill`, which resumes by itself."""

    def command(run_folder: Path) -> list[str]:
        options = {"task": TASK, "num_episodes": NUM_COLLECTED, "workers": 2, "image_size": 32}
        words = [f"--{name}={value}" for name, value in options.items()]
        return e0("collect", "maniskill", *words, f"--out={COLLECTED}")

    def results(run_folder: Path) -> list[Any]:
        out = run_folder / COLLECTED
        sidecar = json.loads(out.with_suffix(".json").read_text())
        return [demos_hash(out), *(each["episode_seed"] for each in sidecar["episodes"])]

    return CommandCase("collect", command, results, folder / "collect")


def command_cases(samples: Samples, folder: Path) -> Iterator[tuple[CommandCase, str]]:
    """Commands that write files, each with why it cannot run here, empty if it can."""
    yield training(samples, folder), ""
    # A broken driver may crash the check.
    check = [sys.executable, "-c", "from e0_lightning.envs.vulkan import check; check()"]
    has_simulator = run(check, folder / "check").status == 0
    missing = "" if has_simulator else "ManiSkill is not installed, or nothing can render"
    yield evaluation(samples, folder), missing
    yield collection(folder), missing
