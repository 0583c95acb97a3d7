"""Data module of evaluation episodes, shared by all simulators."""

from __future__ import annotations

import difflib
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from e0_lightning.envs.base import EvalEpisode, MakeEnvironment
from e0_lightning.envs.camera_orbit import CameraGrid, suffix
from e0_lightning.evaluation.report.callback import (
    UNSORTED,
    VALIDATION,
    RolloutReport,
    report_folder,
)
from e0_lightning.evaluation.rollout import EpisodeRunner, RolloutBatch, Rollouts
from e0_lightning.types import PolicySpec, RenderQuality


@dataclass(frozen=True)
class InstructionOf:
    """The instruction of another task.

    Args:
        task: The other task of the same simulator; it need not be evaluated itself.
    """

    task: str


Instructions = Mapping[str, str | InstructionOf]
"""Task to the sentence, or the task with the sentence, that a policy is given in it."""


class EpisodesDataModule(LightningDataModule):
    """Evaluation episodes of a simulator; a subclass names tasks, seeds and environment.

    Args:
        num_episodes: Episodes of each task and camera displacement in a test.
        num_val_episodes: Episodes of each task in a validation, without camera displacement.
        num_envs: Environments that step in parallel, one process each; None for one per core.
        n_action_steps: Steps of a chunk that are executed before the policy acts again.
        num_videos: Recorded episodes of each task, and camera displacement, in a test or a
            validation; the report embeds the first success and the first failure among them.
        camera_offset: Camera displacements of a test.
        instructions: Instructions of a test instead of those of the tasks, whose success stays
            theirs: task to a sentence, or to ``{task: <name>}`` for the sentence of another task.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        *,
        num_episodes: int,
        num_val_episodes: int,
        num_envs: int | None,
        n_action_steps: int,
        num_videos: int,
        camera_offset: CameraGrid | None,
        instructions: Instructions | None = None,
    ) -> None:
        super().__init__()
        self.num_envs = len(os.sched_getaffinity(0)) if num_envs is None else num_envs
        for name, value, least in (
            ("num_episodes", num_episodes, 1),
            ("num_val_episodes", num_val_episodes, 0),
            ("num_envs", self.num_envs, 1),
            ("n_action_steps", n_action_steps, 1),
            ("num_videos", num_videos, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}.")
        self.num_episodes, self.num_val_episodes = num_episodes, num_val_episodes
        self.n_action_steps, self.num_videos = n_action_steps, num_videos
        self.camera_offset = camera_offset or CameraGrid()
        self.instructions = instructions or {}
        self._rollouts: EpisodeRunner | None = None

    @abstractmethod
    def task_names(self) -> list[str]:
        """Names of the tasks; raises where a task or the simulator is missing."""

    @abstractmethod
    def test_seeds(self) -> range:
        """Seeds or initial states of a test, `num_episodes` of them."""

    @abstractmethod
    def val_seeds(self) -> range:
        """Seeds or initial states of a validation, `num_val_episodes` of them."""

    @abstractmethod
    def max_steps_of(self, task: str) -> int:
        """Maximum episode length of a task."""

    @abstractmethod
    def instruction_of(self, task: str) -> str:
        """Instruction of a task, evaluated or not; raises where there is no such task."""

    @abstractmethod
    def make_environment(self) -> MakeEnvironment:
        """Builds an environment in a worker process; raises where nothing can render."""

    @abstractmethod
    def metadata(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Further settings for the report: plain values, with ``versions`` of the simulator."""

    @property
    def render_quality(self) -> RenderQuality:
        """How the views of the policy that is evaluated are rendered."""
        module = None if self.trainer is None else self.trainer.lightning_module
        spec: PolicySpec = getattr(module, "spec", PolicySpec())
        return spec.render_quality

    def make_rollouts(self) -> EpisodeRunner:
        """Runs the episodes: in worker processes, with one environment each."""
        return Rollouts(self.make_environment(), self.num_envs, self.n_action_steps)

    def test_dataloader(self) -> DataLoader[RolloutBatch]:
        """Batches of test episodes, task by task.

        Raises:
            ValueError: If a task does not exist, is given an instruction but not evaluated, or
                something it requires is missing.
            ModuleNotFoundError: If the simulator is not installed.
            RuntimeError: If nothing can render, with the packages to install.
        """
        return self._loader(
            self.test_seeds(), self.camera_offset, self.instructions, "videos", record=True
        )

    def val_dataloader(self) -> DataLoader[RolloutBatch] | list[Any]:
        """Batches of validation episodes, task by task; no loader if there are none."""
        if not self.num_val_episodes:
            return []
        # Without the callback nothing would log or delete the videos.
        callbacks = [] if self.trainer is None else getattr(self.trainer, "callbacks", [])
        record = any(isinstance(callback, RolloutReport) for callback in callbacks)
        folder = f"{VALIDATION}/{UNSORTED}"
        return self._loader(self.val_seeds(), CameraGrid(), {}, folder, record)

    def teardown(self, stage: str) -> None:
        """End the worker processes, and free the environments."""
        if self._rollouts is not None:
            self._rollouts.close()

    def _loader(
        self,
        seeds: range,
        cameras: CameraGrid,
        instructions: Instructions,
        videos: str,
        record: bool,
    ) -> DataLoader[RolloutBatch]:
        tasks = self.task_names()
        sentences = self._sentences(instructions, tasks)
        if self._rollouts is None:
            self._rollouts = self.make_rollouts()
        metadata = {
            "max_steps": {task: self.max_steps_of(task) for task in tasks},
            "n_action_steps": self.n_action_steps,
            "num_envs": self.num_envs,
            **self.metadata(tasks),
        }
        if sentences:
            # An instruction is a condition of a result, so that results with others stay apart.
            metadata["instructions"] = {**metadata.get("instructions", {}), **sentences}
            notes = [self._note(task, sentence) for task, sentence in sentences.items()]
            metadata["notes"] = [*metadata.get("notes", []), *notes]
        folder = None
        if record and self.trainer is not None:
            folder = (report_folder(self.trainer) / videos).absolute()
        batches = []
        for task in tasks:
            episodes = []
            for index, seed in enumerate(seeds):
                for camera in cameras.offsets(seed):
                    video = None
                    if folder is not None and index < self.num_videos:
                        video = str(folder / f"{task}_{seed}{suffix(camera)}.mp4")
                    steps, sentence = self.max_steps_of(task), sentences.get(task)
                    episodes.append(EvalEpisode(task, seed, steps, video, camera, sentence))
            size = self._batch_size(len(tasks) * len(episodes))
            for start in range(0, len(episodes), size):
                some = episodes[start : start + size]
                batches.append(RolloutBatch(self._rollouts, some, metadata))
        return DataLoader(_Batches(batches), batch_size=None, collate_fn=_identity)

    def _sentences(self, instructions: Instructions, tasks: Sequence[str]) -> dict[str, str]:
        """Sentences that are given instead of the instructions of these tasks."""
        for task in instructions:
            if task not in tasks:
                close = difflib.get_close_matches(task, tasks, n=1, cutoff=0.3)
                raise ValueError(
                    f"instructions: expected tasks that are evaluated, got {task!r}; "
                    + (f"did you mean {close[0]}?" if close else f"they are {', '.join(tasks)}.")
                )
        sentences = {
            task: self.instruction_of(given.task) if isinstance(given, InstructionOf) else given
            for task, given in instructions.items()
        }
        return {task: each for task, each in sentences.items() if each != self.instruction_of(task)}

    def _note(self, task: str, sentence: str) -> str:
        return (
            f'In {task} the policy was given the instruction "{sentence}" instead of '
            f'"{self.instruction_of(task)}"; success is that of {task}.'
        )

    def _batch_size(self, episodes: int) -> int:
        """Large enough to keep all environments busy, small enough for every rank to have one."""
        ranks = 1 if self.trainer is None else self.trainer.world_size
        return min(max(10, 4 * self.num_envs), -(-episodes // ranks))


class _Batches(Dataset[RolloutBatch]):
    """Map-style, so that Lightning shares the batches among ranks with a distributed sampler."""

    def __init__(self, batches: Sequence[RolloutBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> RolloutBatch:
        return self.batches[index]


def _identity(batch: Any) -> Any:
    return batch
