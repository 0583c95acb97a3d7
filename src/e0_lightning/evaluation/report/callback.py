"""What came of the episodes: figures as JSON, tables, a page with videos, a line per episode."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from e0_lightning.evaluation.report.html_report import page
from e0_lightning.evaluation.report.tables import by_camera, by_suite, markdown, summarise
from e0_lightning.evaluation.report.video import representative_videos, show
from e0_lightning.evaluation.results_store import Key, ResultsStore, fingerprint, key, write_whole
from e0_lightning.evaluation.rollout import RolloutBatch
from e0_lightning.types import EpisodeResult

T = TypeVar("T")


class RolloutReport(Callback):
    """Reports the episodes of `lightning test`, and logs success while a policy is trained.

    In a test every finished episode is appended to ``episodes.jsonl`` at once; at the end
    ``results.json``, ``results.md`` and ``results.html`` follow, and the table is printed. An
    episode that broke off counts as a failure and is listed. With several ranks an episode that
    two of them played, as a distributed sampler makes them do to share evenly, counts once.

    A test that was stopped goes on: episodes that ``episodes.jsonl`` of the same folder already
    tells of, for the same checkpoint, settings of the policy (its ``hparams``), precision, seed,
    versions and conditions, are not played again. How many they are is printed. Of a policy
    without ``hparams``, as one built in Python is, nothing is remembered; what is changed on a
    policy after it is built is not seen, so give a test of it a folder of its own.

    In validation ``success/<task>`` is logged, to be plotted or monitored.

    Args:
        folder: Where the files go; None for ``rollouts`` in the trainer's log directory, which is
            a new one for each run, so that nothing is gone on with.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._results: list[EpisodeResult] = []
        self._known: set[Key] = set()
        self._about: dict[str, Any] = {}
        self._checkpoint: str | None = None
        self._policy: dict[str, Any] = {}
        self._path = Path()
        self._ledger = ResultsStore(Path(), None)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew, or where the same test was stopped."""
        self._results, self._known = [], set()
        # Asking a trainer for its log directory is a collective call: every rank, once.
        self._path = report_folder(trainer) if self.folder is None else Path(self.folder)
        path = trainer.ckpt_path
        self._checkpoint = None if path is None else fingerprint(str(path))
        self._policy = _policy(trainer, pl_module)
        running = {**self._policy, "versions": own_versions()}
        remembered = self._checkpoint if pl_module.hparams else None
        self._ledger = ResultsStore(self._path / "episodes.jsonl", remembered, running)
        if trainer.is_global_zero:
            self._path.mkdir(parents=True, exist_ok=True)
        trainer.strategy.barrier()

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Tell the batch which of its episodes need not be played."""
        if isinstance(batch, RolloutBatch):
            batch.finished = self._ledger.finished(batch.about)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the episodes down that were played now."""
        results = self._take(outputs, batch)
        known = batch.finished if isinstance(batch, RolloutBatch) else {}
        played = [each for each in results if key(each) not in known]
        self._known |= {key(each) for each in results} & known.keys()
        self._ledger.add(played, self._about)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        results = _gathered(self._results)
        if not results:
            return
        self._log(pl_module, summarise(results))
        known = set().union(*_of_all_ranks(self._known))
        if trainer.is_global_zero:
            told = {
                "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
                "checkpoint_sha256": self._checkpoint,
                "policy": self._policy,
                **self._about,
                "versions": {**own_versions(), **self._about.get("versions", {})},
            }
            text = write(self._path, results, told)
            if known:
                print(f"\n{len(known)} episodes were played before: {self._ledger.path}")
            print(f"\n{text}\n{self._path / 'results.html'}")
            chosen = representative_videos([asdict(result) for result in results])
            for logger in trainer.loggers:
                for (task, outcome), episode in chosen.items():
                    if isinstance(logger, TensorBoardLogger):
                        show(logger.experiment, f"{task}/{outcome}", Path(episode["video"]))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._results = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the results of episodes; other batches are not ours."""
        self._take(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the success of each task."""
        self._log(pl_module, summarise(_gathered(self._results)))

    def _take(self, outputs: Any, batch: Any) -> list[EpisodeResult]:
        if not isinstance(outputs, list):
            return []
        results = [result for result in outputs if isinstance(result, EpisodeResult)]
        self._results += results
        if isinstance(batch, RolloutBatch):
            self._about = batch.about
        return results

    @staticmethod
    def _log(module: LightningModule, tasks: dict[str, dict[str, Any]]) -> None:
        # Every rank has gathered the same figures; their mean is what Lightning wants to hear.
        rates = {f"success/{task}": found["rate"] for task, found in tasks.items()}
        module.log_dict(rates, sync_dist=True)


def report_folder(trainer: Trainer) -> Path:
    """Where a trainer's rollouts are reported and representative_videos; every rank must ask."""
    return Path(trainer.log_dir or trainer.default_root_dir) / "rollouts"


def write(folder: Path, results: Sequence[EpisodeResult], told: dict[str, Any]) -> str:
    """Write ``results.json``, ``results.md`` and ``results.html``.

    Args:
        folder: Where to.
        results: Every episode once.
        told: What was run.

    Returns:
        The table.
    """
    tasks = summarise(results)
    found = {
        "tasks": tasks,
        "mean": sum(task["rate"] for task in tasks.values()) / len(tasks),
        "suites": by_suite(results),
        "cameras": by_camera(results),
        **told,
        "episodes": [asdict(result) for result in results],
    }
    text = markdown(found)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.json", json.dumps(found, indent=2) + "\n")
    (folder / "results.md").write_text(text)
    (folder / "results.html").write_text(page(found))
    return text


def _policy(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What beside its weights decides what a policy does, as plain values."""
    told = {
        "settings": dict(module.hparams),
        "precision": trainer.precision,
        "seed": os.environ.get("PL_GLOBAL_SEED"),
    }
    plain: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return plain


def own_versions() -> dict[str, str]:
    """Versions of what trained and played the policy."""
    packages = ("e0-lightning", "torch", "lightning")
    return {name: importlib.metadata.version(name) for name in packages}


def _gathered(results: list[EpisodeResult]) -> list[EpisodeResult]:
    """The results of all ranks, each episode once, ordered by task, seed and camera."""
    once = {key(each): each for rank in _of_all_ranks(results) for each in rank}
    return [once[each] for each in sorted(once)]


def _of_all_ranks(mine: T) -> list[T]:
    """What each rank has; every rank must ask."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    everyone = [mine] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone
