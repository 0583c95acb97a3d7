"""What came of the episodes: a table, its figures as JSON, and a line per episode as it ends."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from e0_lightning.metrics import wilson
from e0_lightning.simulation.rollout import RolloutBatch
from e0_lightning.types import EpisodeResult


class RolloutReport(Callback):
    """Reports the episodes of `lightning test`, and logs success while a policy is trained.

    In a test every finished episode is appended to ``episodes.jsonl`` at once; at the end
    ``results.json`` and ``results.md`` follow, and the table is printed. An episode that broke off
    counts as a failure and is listed. With several ranks an episode that two of them played, as
    a distributed sampler makes them do to share evenly, counts once.

    In validation ``success/<task>`` is logged, to be plotted or monitored.

    Args:
        folder: Where the files go; None for ``rollouts`` in the trainer's log directory.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._results: list[EpisodeResult] = []
        self._about: dict[str, Any] = {}
        self._path = Path()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._results = []
        # Asking a trainer for its log directory is a collective call: every rank, once.
        self._path = report_folder(trainer) if self.folder is None else Path(self.folder)
        if trainer.is_global_zero:
            self._path.mkdir(parents=True, exist_ok=True)
            (self._path / "episodes.jsonl").write_text("")
        trainer.strategy.barrier()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the finished episodes down."""
        results = self._take(outputs, batch)
        with (self._path / "episodes.jsonl").open("a") as file:
            file.writelines(json.dumps(asdict(result)) + "\n" for result in results)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        results = _gathered(self._results)
        if not results:
            return
        tasks = summarise(results)
        self._log(pl_module, tasks)
        if trainer.is_global_zero:
            found = {
                "tasks": tasks,
                "mean": sum(task["rate"] for task in tasks.values()) / len(tasks),
                "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
                **self._about,
                "versions": {**own_versions(), **self._about.get("versions", {})},
                "episodes": [asdict(result) for result in results],
            }
            (self._path / "results.json").write_text(json.dumps(found, indent=2) + "\n")
            text = markdown(found)
            (self._path / "results.md").write_text(text)
            print(f"\n{text}\n{self._path / 'results.md'}")

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
    """Where a trainer's rollouts are reported and filmed; every rank must ask."""
    return Path(trainer.log_dir or trainer.default_root_dir) / "rollouts"


def summarise(results: Sequence[EpisodeResult]) -> dict[str, dict[str, Any]]:
    """Figures of each task: success with its 95 % interval, episodes, errors, mean steps."""
    tasks = {}
    for task in sorted({result.task for result in results}):
        own = [result for result in results if result.task == task]
        successes = sum(result.success for result in own)
        tasks[task] = {
            **wilson(successes, len(own))._asdict(),
            "successes": successes,
            "errors": sum(bool(result.error) for result in own),
            "mean_steps": sum(result.steps for result in own) / len(own),
        }
    return tasks


def markdown(found: dict[str, Any]) -> str:
    """The table of a report, what was run, and the episodes that broke off."""
    caps = found.get("max_steps", {})
    lines = [
        "| task | success | 95 % interval | episodes | errors | mean steps | cap |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, figures in found["tasks"].items():
        lines.append(
            f"| {task} | {figures['rate']:.1%} | {figures['low']:.1%} – {figures['high']:.1%} "
            f"| {figures['n']} | {figures['errors']} | {figures['mean_steps']:.0f} "
            f"| {caps.get(task, '')} |"
        )
    if len(found["tasks"]) > 1:
        lines.append(f"| mean of tasks | {found['mean']:.1%} | | | | | |")
    settings = {
        key: found[key]
        for key in ("checkpoint", "first_seed", "replan", "num_envs")
        if key in found
    }
    lines += ["", *(f"- {key.replace('_', ' ')}: {value}" for key, value in settings.items())]
    lines.append("- " + ", ".join(f"{name} {value}" for name, value in found["versions"].items()))
    broken = [episode for episode in found["episodes"] if episode["error"]]
    if broken:
        lines += ["", "Episodes that broke off, counted as failures:"]
        lines += [f"- {each['task']}, seed {each['seed']}: {each['error']}" for each in broken]
    return "\n".join(lines) + "\n"


def own_versions() -> dict[str, str]:
    """Versions of what trained and played the policy."""
    packages = ("e0-lightning", "torch", "lightning")
    return {name: importlib.metadata.version(name) for name in packages}


def _gathered(results: list[EpisodeResult]) -> list[EpisodeResult]:
    """The results of all ranks, each episode once, ordered by task and seed."""
    everyone = [results]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everyone = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(everyone, results)
    once = {(each.task, each.seed): each for rank in everyone for each in rank}
    return [once[key] for key in sorted(once)]
