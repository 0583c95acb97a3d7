"""One variant: trained, played and timed in processes of its own, each stage once."""

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

from e0_lightning.comparison.records import ACTING, TRAINED, TRAINING
from e0_lightning.comparison.tables import Words, options
from e0_lightning.evaluation.results_store import fingerprint

PLAYED = "results.json"
EPISODES = "--data.init_args.episodes"


@dataclass(frozen=True)
class Budget:
    """What every variant is given.

    Args:
        experiment: Files of the benchmark, each over the one before, and options.
        steps: Optimizer steps; None for as many as the files say.
        episodes: Episodes of each task; None for as many as the files say.
        threads: Threads, and environments, of a process; None for as many as there are cores.
    """

    experiment: Words
    steps: int | None = None
    episodes: int | None = None
    threads: int | None = None


class Variant:
    """One row of a comparison, and its folder.

    Args:
        folder: Where all of it goes.
        words: What turns the benchmark into it.
        budget: What it is given.
        trained_as: The variant whose weights it is played with; None if it is trained itself.
    """

    def __init__(
        self, folder: Path, words: Words, budget: Budget, trained_as: Variant | None = None
    ) -> None:
        self.folder, self.words, self.budget, self.trained_as = folder, words, budget, trained_as

    @property
    def name(self) -> str:
        """Of the variant and its folder."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """Its own weights, or those it is played with."""
        return (self.trained_as or self).folder / TRAINED

    def train(self) -> None:
        """Train it to the end, from where it was stopped; nothing if that was done before.

        Raises:
            ValueError: If another training lies in its folder.
            RuntimeError: If it fails, with the end of what it said.
        """
        with self._alone():
            asked, path = self._asked(steps=self.budget.steps), self.folder / "asked.json"
            if path.exists() and (found := json.loads(path.read_text())) != asked:
                raise ValueError(
                    f"{self.folder} holds a training of {found}, now {asked} is asked for; name "
                    "another --out, or delete the folder."
                )
            path.write_text(json.dumps(asked, indent=2) + "\n")
            if not (self.folder / TRAINING).exists():
                self._run("fit", *self._training())
            if not (self.folder / TRAINING).exists():
                raise RuntimeError(
                    f"{self.folder}: the training had come to its end before, but {TRAINED} and "
                    f"{TRAINING} were not written; delete the folder to train again."
                )

    def play(self) -> None:
        """Play its episodes, those that were not played before.

        Raises:
            RuntimeError: If it fails, with the end of what it said.
        """
        with self._alone():
            asked = self._asked(episodes=self.budget.episodes, weights=fingerprint(self.checkpoint))
            if self._is_news(PLAYED, asked):
                self._run("test", *self._playing())
                self._note(PLAYED, asked)

    def measure(self) -> None:
        """Take its action error on held-out windows, and the time of a decision.

        Raises:
            RuntimeError: If it fails, with the end of what it said.
        """
        with self._alone():
            asked = self._asked(weights=fingerprint(self.checkpoint))
            if self._is_news(ACTING, asked):
                callback = _callbacks("e0_lightning.comparison.records.ActingRecord", self.folder)
                words = [f"--ckpt_path={self.checkpoint}", callback, "--data.episodes=null"]
                self._run("validate", *words)
                self._note(ACTING, asked)

    def _training(self) -> Words:
        words = [
            # Validation would take its share of the time that is compared.
            "--trainer.limit_val_batches=0",
            "--trainer.callbacks+=e0_lightning.comparison.records.TrainingRecord",
            f"--trainer.callbacks.folder={self.folder}",
        ]
        if self.budget.steps is not None:
            words.append(f"--trainer.max_steps={self.budget.steps}")
        stopped = self.folder.glob("lightning_logs/*/checkpoints/last.ckpt")
        latest = max(stopped, key=lambda path: path.stat().st_mtime, default=None)
        return words if latest is None else [*words, f"--ckpt_path={latest}"]

    def _playing(self) -> Words:
        words = [f"--ckpt_path={self.checkpoint}", _callbacks("RolloutReport", self.folder)]
        if self.budget.episodes is not None:
            words.append(f"{EPISODES}.init_args.num_episodes={self.budget.episodes}")
        if self.budget.threads is not None:
            words.append(f"{EPISODES}.init_args.num_envs={self.budget.threads}")
        return words

    def _run(self, verb: str, *words: str) -> None:
        """Do what a ``lightning`` command line says, in a process of its own."""
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        # A batch is a process's: on more devices every variant would be given more, unless the
        # experiment says how many.
        alone = "--trainer.devices=1"
        command = [
            sys.executable,
            "-m",
            "e0_lightning.cli",
            verb,
            alone,
            *self._described(),
            *quiet,
        ]
        command += [f"--trainer.default_root_dir={self.folder}", *words]
        threads = {} if self.budget.threads is None else {"OMP_NUM_THREADS": self.budget.threads}
        environment = {**os.environ, **{name: str(value) for name, value in threads.items()}}
        path = self.folder / f"{verb}.log"
        with path.open("a") as log:
            ended = subprocess.run(
                command, stdout=log, stderr=log, env=environment, pass_fds=[self._lock.fileno()]
            )
        if ended.returncode:
            said = "\n".join(path.read_text().splitlines()[-10:])
            raise RuntimeError(f"{self.name}: `lightning {verb}` failed, see {path}:\n{said}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others off the folder as long as this process or one it has started works there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as self._lock:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RuntimeError(
                    f"{self.folder}: another process is at work there; wait for it or end it."
                ) from error
            yield

    def _asked(self, **more: Any) -> dict[str, Any]:
        """What decides the outcome of a stage: words, the files they name, and more."""
        words = self._described()
        files = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
        hashes = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] for path in files}
        return {"words": words, "files": hashes, **more}

    def _described(self) -> Words:
        return options([*self.budget.experiment, *self.words])

    def _is_news(self, result: str, asked: dict[str, Any]) -> bool:
        path = self.folder / f"{result}.asked"
        known = (self.folder / result).exists() and path.exists()
        return not known or json.loads(path.read_text()) != asked

    def _note(self, result: str, asked: dict[str, Any]) -> None:
        (self.folder / f"{result}.asked").write_text(json.dumps(asked, indent=2) + "\n")


def _callbacks(name: str, folder: Path) -> str:
    """One callback in place of all, with a folder to write to."""
    chosen = [{"class_path": name, "init_args": {"folder": str(folder)}}]
    return f"--trainer.callbacks={json.dumps(chosen)}"
