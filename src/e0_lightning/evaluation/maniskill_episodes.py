"""Episodes as data: `lightning test` plays them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.camera_orbit import CameraGrid, CameraOffset, suffix
from e0_lightning.envs.maniskill import (
    DEFAULT_MAX_STEPS,
    MAX_STEPS,
    ManiSkillEnvironment,
    require_task,
    versions,
)
from e0_lightning.evaluation.report.callback import report_folder
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts


class ManiSkillEpisodes(LightningDataModule):
    """Closed-loop episodes of ManiSkill tasks, on seeds that no demonstration used.

    Args:
        tasks: Names of tasks, or name to instruction where the task's own sentence is not wanted.
        num_episodes: Episodes of each task in a test, on the seeds from `first_seed` on.
        first_seed: First seed of the test; demonstrations use small ones.
        num_envs: Environments that step in parallel, a process each; None for one per core.
        n_action_steps: Steps of a chunk that are carried out before the policy is asked again.
        max_steps: Steps after which an episode has failed, for all tasks or by task; None for
            the caps of `MAX_STEPS`.
        num_videos: Episodes of each task in a test that are written as mp4.
        num_val_episodes: Episodes of each task in a validation, on the seeds before `first_seed`.
        camera_offset: Displacements of the fixed cameras to play a test at.

    Raises:
        ValueError: If a number makes no sense, or `max_steps` names a task that is not played.
    """

    def __init__(
        self,
        tasks: list[str] | dict[str, str],
        num_episodes: int = 50,
        first_seed: int = 100_000,
        num_envs: int | None = None,
        n_action_steps: int = 10,
        max_steps: int | dict[str, int] | None = None,
        num_videos: int = 3,
        num_val_episodes: int = 0,
        camera_offset: CameraGrid | None = None,
    ) -> None:
        super().__init__()
        if not tasks or num_episodes < 1 or num_val_episodes < 0 or first_seed < num_val_episodes:
            raise ValueError(
                f"tasks {tasks}, num_episodes {num_episodes}, num_val_episodes {num_val_episodes}, first_seed "
                f"{first_seed}: one task and one episode at least, and no negative seeds"
            )
        if isinstance(max_steps, dict) and (strange := set(max_steps) - set(tasks)):
            raise ValueError(
                f"max_steps names {', '.join(strange)}; the tasks are {', '.join(tasks)}"
            )
        self.tasks, self.num_episodes, self.first_seed = list(tasks), num_episodes, first_seed
        self.num_videos, self.num_val_episodes = num_videos, num_val_episodes
        self.camera_offset = camera_offset or CameraGrid()
        self.max_steps = {task: _cap(task, max_steps) for task in self.tasks}
        if min(self.max_steps.values()) < 1:
            raise ValueError(f"max_steps {max_steps}: every task needs a step at least")
        own = tasks if isinstance(tasks, dict) else {}
        self.instructions = {**INSTRUCTIONS, **own}
        self.rollouts = Rollouts(
            partial(ManiSkillEnvironment, instructions=self.instructions),
            num_envs=len(os.sched_getaffinity(0)) if num_envs is None else num_envs,
            n_action_steps=n_action_steps,
        )

    def test_dataloader(self) -> DataLoader[RolloutBatch]:
        """Batches of episodes of one task after another.

        Raises:
            ValueError: If there is no such task, or no instruction for it.
            RuntimeError: If there is nothing to render with, saying what to install.
        """
        return self._loader(self.first_seed, self.num_episodes, self.num_videos, self.camera_offset)

    def val_dataloader(self) -> DataLoader[RolloutBatch] | list[Any]:
        """The same for validation, without videos; no loader where there are no such episodes."""
        if not self.num_val_episodes:
            return []
        first = self.first_seed - self.num_val_episodes
        return self._loader(first, self.num_val_episodes, 0, CameraGrid())

    def teardown(self, stage: str) -> None:
        """End the processes."""
        self.rollouts.close()

    def _loader(
        self, first_seed: int, episodes: int, num_videos: int, cameras: CameraGrid
    ) -> DataLoader[RolloutBatch]:
        for task in self.tasks:
            require_task(task, self.instructions)
        about = {
            "first_seed": first_seed,
            "max_steps": self.max_steps,
            "instructions": {task: self.instructions[task] for task in self.tasks},
            "n_action_steps": self.rollouts.n_action_steps,
            "num_envs": self.rollouts.num_envs,
            "versions": versions(),
        }
        batches = []
        for task in self.tasks:
            own = [
                self._episode(task, seed, camera, seed - first_seed < num_videos)
                for seed in range(first_seed, first_seed + episodes)
                for camera in cameras.offsets(seed)
            ]
            size = self._batch_size(len(own))
            for start in range(0, len(own), size):
                batches.append(RolloutBatch(self.rollouts, own[start : start + size], about))
        return DataLoader(Batches(batches), batch_size=None, collate_fn=hand_on)

    def _episode(
        self, task: str, seed: int, camera: CameraOffset, record_video: bool
    ) -> EvalEpisode:
        video = None
        if record_video and self.trainer is not None:
            name = f"{task}_{seed}{suffix(camera)}.mp4"
            video = str(report_folder(self.trainer) / "videos" / name)
        return EvalEpisode(task, seed, self.max_steps[task], video, camera)

    def _batch_size(self, episodes: int) -> int:
        """Large enough to keep all environments busy, small enough for every rank to have some."""
        ranks = 1 if self.trainer is None else self.trainer.world_size
        fair = -(-len(self.tasks) * episodes // ranks)
        return min(max(10, 4 * self.rollouts.num_envs), fair)


class Batches(Dataset[RolloutBatch]):
    """Map-style, so that Lightning can give each rank its share with a distributed sampler."""

    def __init__(self, batches: Sequence[RolloutBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> RolloutBatch:
        return self.batches[index]


def hand_on(batch: Any) -> Any:
    """Collate nothing: an item is a batch already."""
    return batch


def _cap(task: str, max_steps: int | dict[str, int] | None) -> int:
    if isinstance(max_steps, int):
        return max_steps
    return (max_steps or {}).get(task, MAX_STEPS.get(task, DEFAULT_MAX_STEPS))
