"""Callback that records episodes as they end, reports them, and logs success rates and videos."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from e0_lightning.evaluation.report.report_files import own_versions, write_report
from e0_lightning.evaluation.report.video import log_video, representative_videos, video_file
from e0_lightning.evaluation.results_store import (
    FolderLock,
    Key,
    ResultsStore,
    fingerprint,
    key,
    training_step,
)
from e0_lightning.evaluation.rollout import RolloutBatch
from e0_lightning.evaluation.statistics import by_task, mean_of_scores
from e0_lightning.types import EpisodeResult

T = TypeVar("T")


class RolloutReport(Callback):
    """Reports the episodes of `lightning test`, and logs success rates while a policy is trained.

    In a test each episode is appended to ``episodes.jsonl`` as it ends; ``results.json``,
    ``results.md`` and ``results.html`` are written at the end, and the table is printed. An
    episode with an error counts as a failure and is listed. With several ranks, an episode that a
    distributed sampler assigns to two of them counts once.

    An interrupted evaluation resumes: episodes that ``episodes.jsonl`` of the same folder records
    for the same checkpoint, settings of the policy (its ``hparams``), precision, seed, versions
    and evaluation settings are skipped. A policy without ``hparams``, as one built in Python,
    resumes nothing. Changes made to a policy after its construction are not detected: use another
    folder for them. Two evaluations cannot use one folder at the same time.

    Logs ``val/success_rate/<task>`` and ``test/success_rate/<task>``, and after each validation a
    video of one success and one failure per task; the policy logs the rates over all tasks. Where
    episodes have a score, ``val/score/<task>``, ``test/score/<task>`` and the means of the tasks,
    ``val/score`` and ``test/score``, are logged as well.

    Args:
        folder: Folder of the report; None for ``rollouts`` in the trainer's log directory, which
            is a new one for each run, so that nothing is resumed.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._path = Path()
        self._results: list[EpisodeResult] = []
        self._skipped: set[Key] = set()
        self._metadata: dict[str, Any] = {}
        self._report: dict[str, Any] = {}
        self._store = ResultsStore(Path(), None)
        self._lock: FolderLock | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lock the folder and load the results of an interrupted evaluation.

        Raises:
            RuntimeError: If another evaluation is writing to the folder.
        """
        self._results, self._skipped, self._metadata = [], set(), {}
        self._path = report_folder(trainer)
        self._lock_folder(trainer)
        checkpoint = trainer.ckpt_path
        sha256 = None if checkpoint is None else fingerprint(str(checkpoint))
        policy = _policy_settings(trainer, pl_module)
        self._report = {
            "checkpoint": str(checkpoint) if checkpoint else None,
            "checkpoint_sha256": sha256,
            "training_step": training_step(str(checkpoint)) if checkpoint else None,
            "policy": policy,
        }
        conditions = {**policy, "versions": own_versions()}
        hash_ = sha256 if pl_module.hparams else None
        self._store = ResultsStore(self._path / "episodes.jsonl", hash_, conditions)
        self._store.load()
        trainer.strategy.barrier()

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Let the batch skip finished episodes and record the others as they end."""
        if isinstance(batch, RolloutBatch):
            self._metadata = batch.metadata
            batch.finished = self._store.finished(batch.episodes, batch.metadata)
            batch.on_result = partial(self._store.add, metadata=batch.metadata)
            self._skipped |= batch.finished.keys()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the results; those of other kinds of batches are recorded here."""
        results = _results_of(outputs)
        self._results += results
        if not isinstance(batch, RolloutBatch):
            for result in results:
                self._store.add(result, self._metadata)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report and log success rates and videos."""
        results = _gather_results(self._results)
        if not results:
            return
        _log_results(pl_module, "test", results)
        skipped = set().union(*_gather(self._skipped))
        if trainer.is_global_zero:
            versions = {**own_versions(), **self._metadata.get("versions", {})}
            metadata = {**self._report, **self._metadata, "versions": versions}
            text = write_report(self._path, results, metadata)
            if skipped:
                print(f"\n{len(skipped)} episodes were resumed from {self._store.path}")
            print(f"\n{text}\n{self._path / 'results.html'}")
            self._log_videos(trainer, "test", results)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the results of the previous validation."""
        self._results = []
        self._path = report_folder(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the results of episodes."""
        self._results += _results_of(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log success rates and videos."""
        results = _gather_results(self._results)
        if not results:
            return
        _log_results(pl_module, "val", results)
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._log_videos(trainer, "val", results)
        trainer.strategy.barrier()
        # The representative videos have been moved.
        shutil.rmtree(self._path / VALIDATION / UNSORTED, ignore_errors=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unlock the folder."""
        self._unlock_folder()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Unlock the folder."""
        self._unlock_folder()

    def _lock_folder(self, trainer: Trainer) -> None:
        error = ""
        if trainer.is_global_zero:
            self._path.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(self._path)
            try:
                lock.acquire()
                self._lock = lock
            except RuntimeError as refusal:
                error = str(refusal)
        # Every rank must fail, or the others would wait for this one.
        if error := trainer.strategy.broadcast(error):
            raise RuntimeError(error)

    def _unlock_folder(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _log_videos(self, trainer: Trainer, stage: str, results: Sequence[EpisodeResult]) -> None:
        episodes = [asdict(result) for result in results]
        for (task, outcome), episode in representative_videos(self._path, episodes).items():
            path = video_file(self._path, episode)
            assert path is not None
            if stage == "val":
                folder = self._path / VALIDATION / f"step_{trainer.global_step:06d}"
                target = folder / f"{task}_{outcome}.mp4"
                target.parent.mkdir(parents=True, exist_ok=True)
                path = path.replace(target)
            step = self._report["training_step"] if stage == "test" else trainer.global_step
            log_video(trainer.loggers, f"{stage}/{task}/{outcome}", path, step or 0)


VALIDATION, UNSORTED = "validation", "unsorted"
"""Folders of validation videos in that of the report, and of those that are not selected yet."""


def report_folder(trainer: Trainer) -> Path:
    """Folder of reports and videos of a trainer's rollouts; every rank must call it."""
    for callback in getattr(trainer, "callbacks", []):
        if isinstance(callback, RolloutReport) and callback.folder is not None:
            return Path(callback.folder)
    return Path(trainer.log_dir or trainer.default_root_dir) / "rollouts"


def _policy_settings(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What determines the policy's actions besides its weights, as plain values."""
    settings = {
        "settings": dict(module.hparams),
        "precision": trainer.precision,
        "seed": os.environ.get("PL_GLOBAL_SEED"),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _log_results(module: LightningModule, stage: str, results: Sequence[EpisodeResult]) -> None:
    tasks = by_task(results)
    values = {f"{stage}/success_rate/{task}": summary["rate"] for task, summary in tasks.items()}
    for task, summary in tasks.items():
        if "score" in summary:
            values[f"{stage}/score/{task}"] = summary["score"]["mean"]
    if (score := mean_of_scores(tasks)) is not None:
        values[f"{stage}/score"] = score
    # The values are the same on all ranks; without sync_dist Lightning warns.
    module.log_dict(values, sync_dist=True)


def _results_of(outputs: Any) -> list[EpisodeResult]:
    if not isinstance(outputs, list):
        return []
    return [result for result in outputs if isinstance(result, EpisodeResult)]


def _gather_results(results: list[EpisodeResult]) -> list[EpisodeResult]:
    """Results of all ranks, each episode once, ordered by task, seed and camera."""
    unique = {key(each): each for rank in _gather(results) for each in rank}
    return [unique[each] for each in sorted(unique)]


def _gather(own: T) -> list[T]:
    """Objects of all ranks; every rank must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    gathered = [own] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered
