"""Training, evaluation and latency of one variant, each in its own process and done once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e0_lightning.comparison.experiment_files import find_experiment
from e0_lightning.comparison.records import CHECKPOINT, TRAINING, VALIDATION
from e0_lightning.comparison.tables import Overrides, to_options
from e0_lightning.evaluation.results_store import fingerprint

EVALUATION, REQUEST = "results.json", "request.json"
LOCK = ".variant.lock"
"""Not that of the evaluation, which locks its report folder, the same one."""
EPISODES = "--data.init_args.episodes.init_args"


@dataclass(frozen=True)
class Budget:
    """Settings that all variants share.

    Args:
        experiment: Config files and options of the benchmark.
        steps: Optimizer steps; None for those of the benchmark.
        num_episodes: Episodes of each task; None for those of the benchmark.
        threads: Threads, and environments, of a process; None for one per core.
    """

    experiment: Overrides
    steps: int | None = None
    num_episodes: int | None = None
    threads: int | None = None


class Variant:
    """One row of a comparison, with its own folder.

    Args:
        folder: Where all of its files go.
        overrides: Config files and options that turn the benchmark into this variant.
        budget: Settings shared by all variants.
        trained_as: The variant whose weights it uses; None if it is trained itself.
    """

    def __init__(
        self,
        folder: Path,
        overrides: Overrides,
        budget: Budget,
        trained_as: Variant | None = None,
    ) -> None:
        self.folder, self.overrides, self.budget = folder, overrides, budget
        self.trained_as = trained_as

    @property
    def name(self) -> str:
        """Name of the variant and of its folder."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """Checkpoint of the weights it uses."""
        return (self.trained_as or self).folder / CHECKPOINT

    def train(self) -> None:
        """Train to the end, from the last checkpoint if interrupted; nothing if already done.

        Raises:
            ValueError: If the folder holds a training with other settings.
            RuntimeError: If the training fails, with the end of its output.
        """
        with self._locked():
            request, path = self._request(steps=self.budget.steps), self.folder / REQUEST
            if path.exists() and (previous := json.loads(path.read_text())) != request:
                raise ValueError(
                    f"{self.folder}: expected a training of {request}, got {previous}. Use another "
                    "--out, or delete the folder."
                )
            path.write_text(json.dumps(request, indent=2) + "\n")
            if not (self.folder / TRAINING).exists():
                self._run("fit", *self._fit_options())
            if not (self.folder / TRAINING).exists():
                raise RuntimeError(
                    f"{self.folder}: the training is complete, but {CHECKPOINT} and {TRAINING} "
                    "were not written. Delete the folder to train again."
                )

    def evaluate(self) -> None:
        """Run the evaluation episodes that have no result yet.

        Raises:
            RuntimeError: If the evaluation fails, with the end of its output.
        """
        options = [f"--ckpt_path={self.checkpoint}", _only_callback("RolloutReport", self.folder)]
        if self.budget.num_episodes is not None:
            options.append(f"{EPISODES}.num_episodes={self.budget.num_episodes}")
        if self.budget.threads is not None:
            options.append(f"{EPISODES}.num_envs={self.budget.threads}")
        self._run_once("test", EVALUATION, options, num_episodes=self.budget.num_episodes)

    def measure(self) -> None:
        """Measure the action error on held-out chunks and the latency of `act`.

        Raises:
            RuntimeError: If the validation fails, with the end of its output.
        """
        record = "e0_lightning.comparison.records.ValidationRecord"
        options = [
            f"--ckpt_path={self.checkpoint}",
            _only_callback(record, self.folder),
            "--data.episodes=null",
        ]
        self._run_once("validate", VALIDATION, options)

    def _fit_options(self) -> list[str]:
        options = [
            # Validation would count towards the training time.
            "--trainer.limit_val_batches=0",
            "--trainer.callbacks+=e0_lightning.comparison.records.TrainingRecord",
            f"--trainer.callbacks.folder={self.folder}",
        ]
        if self.budget.steps is not None:
            options.append(f"--trainer.max_steps={self.budget.steps}")
        checkpoints = self.folder.glob("lightning_logs/*/checkpoints/last.ckpt")
        latest = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
        return options if latest is None else [*options, f"--ckpt_path={latest}"]

    def _run_once(self, verb: str, result: str, options: list[str], **settings: Any) -> None:
        """Run a verb, unless its result exists and was made by the same request."""
        with self._locked():
            request = self._request(weights=fingerprint(self.checkpoint), **settings)
            path = self.folder / f"{result.removesuffix('.json')}.{REQUEST}"
            done = (self.folder / result).exists() and path.exists()
            if not done or json.loads(path.read_text()) != request:
                self._run(verb, *options)
                path.write_text(json.dumps(request, indent=2) + "\n")

    def _run(self, verb: str, *options: str) -> None:
        """Run a ``lightning`` command line in its own process."""
        command = [
            sys.executable,
            "-m",
            "e0_lightning.cli",
            verb,
            # The batch size is per device: with more devices a variant would get a larger batch,
            # unless the experiment sets their number.
            "--trainer.devices=1",
            *self._variant_options(),
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={self.folder}",
            *options,
        ]
        threads = {} if self.budget.threads is None else {"OMP_NUM_THREADS": self.budget.threads}
        environment = {**os.environ, **{name: str(value) for name, value in threads.items()}}
        path = self.folder / f"{verb}.log"
        with path.open("a") as log:
            # The process inherits the lock, which therefore outlives this process.
            result = subprocess.run(
                command, stdout=log, stderr=log, env=environment, pass_fds=[self._lock.fileno()]
            )
        if result.returncode:
            output = "\n".join(path.read_text().splitlines()[-10:])
            raise RuntimeError(f"{self.name}: `lightning {verb}` failed, see {path}:\n{output}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as self._lock:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RuntimeError(
                    f"{self.folder}: another process is running this variant. Wait for it, or end "
                    "it."
                ) from error
            yield

    def _request(self, **settings: Any) -> dict[str, Any]:
        """Describe what determines a result: options, hashes of config files, and settings."""
        options = self._variant_options()
        files = [each.removeprefix("--config=") for each in options if each.startswith("--config=")]
        contents = {name: find_experiment(name).read_bytes() for name in files}
        hashes = {name: hashlib.sha256(each).hexdigest()[:12] for name, each in contents.items()}
        return {"options": options, "files": hashes, **settings}

    def _variant_options(self) -> list[str]:
        return to_options([*self.budget.experiment, *self.overrides])


def _only_callback(name: str, folder: Path) -> str:
    """Return the option that replaces all callbacks by one that writes to a folder."""
    callbacks = [{"class_path": name, "init_args": {"folder": str(folder)}}]
    return f"--trainer.callbacks={json.dumps(callbacks)}"
