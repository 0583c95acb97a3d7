"""LIBERO's suites as episodes: `lightning test` plays them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.camera_orbit import CameraGrid, CameraOffset, suffix
from e0_lightning.envs.libero import LiberoEnvironment, tasks, versions
from e0_lightning.envs.libero_assets import Assets, find_assets
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.evaluation.maniskill_episodes import Batches, hand_on
from e0_lightning.evaluation.report.callback import report_folder
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts

MAX_STEPS = {
    "openvla": {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520},
    "lerobot": {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520},
}
"""Published episode caps, the steps of waiting not counted."""

STATES = 50
"""Initial states that LIBERO gives each task."""

PUBLISHED = {
    "libero_spatial": {"E0, published": 0.972, "π0.5, published": 0.954},
    "libero_object": {"E0, published": 0.994, "π0.5, published": 0.984},
    "libero_goal": {"E0, published": 0.950, "π0.5, published": 0.972},
    "libero_10": {"E0, published": 0.922, "π0.5, published": 0.896},
}
"""Success in E0's paper (arXiv 2511.21542), 50 episodes a task."""

DARK = (3, 3, 3)
"""From this version on MuJoCo draws LIBERO's floors darker, and published policies lose by it."""


class LiberoEpisodes(LightningDataModule):
    """Closed-loop episodes from LIBERO's official initial states.

    Args:
        suites: Suites of ten tasks to play, such as libero_object.
        tasks: Places of the tasks in their suite, from 0; all ten if None.
        num_episodes: Episodes of each task, from its first initial state on.
        num_envs: Environments that step in parallel, a process each; None for one per core.
        n_action_steps: Steps of a chunk that are carried out before the policy is asked again.
        max_steps: EvalEpisode caps: ``openvla`` (220, 280, 300, 520 steps in the order spatial,
            object, goal, 10), ``lerobot`` (280, 280, 300, 520), or one number for all.
        num_videos: Episodes of each task and camera that are written as mp4; the report shows the
            first success and the first failure among them.
        camera_offset: Displacements of the third-person camera to play everything at.

    Raises:
        ValueError: If a number makes no sense.
    """

    def __init__(
        self,
        suites: list[str],
        tasks: list[int] | None = None,
        num_episodes: int = STATES,
        num_envs: int | None = None,
        n_action_steps: int = 10,
        max_steps: str | int = "openvla",
        num_videos: int = 5,
        camera_offset: CameraGrid | None = None,
    ) -> None:
        super().__init__()
        if not suites or not 1 <= num_episodes <= STATES:
            raise ValueError(
                f"suites {suites}, num_episodes {num_episodes}: one suite at least is wanted, and from 1 "
                f"to {STATES} episodes a task, for so many initial states there are"
            )
        if tasks is not None and not set(tasks) <= set(range(10)):
            raise ValueError(f"tasks {tasks}: the tasks of a suite are numbered from 0 to 9")
        if isinstance(max_steps, str) and max_steps not in MAX_STEPS:
            raise ValueError(
                f"max_steps {max_steps!r}: a number is wanted, or {' or '.join(MAX_STEPS)}"
            )
        self.suites, self.num_episodes, self.num_videos = suites, num_episodes, num_videos
        self.places = range(10) if tasks is None else tasks
        self.max_steps = max_steps
        self.camera_offset = camera_offset or CameraGrid()
        self.num_envs = len(os.sched_getaffinity(0)) if num_envs is None else num_envs
        self.n_action_steps = n_action_steps
        self._rollouts: Rollouts | None = None

    def test_dataloader(self) -> DataLoader[RolloutBatch]:
        """Batches of episodes of one task after another.

        Raises:
            ValueError: If there is no such suite, or LIBERO_ASSETS holds no assets.
            RuntimeError: If there are no assets or nothing to render with, saying what to do.
            ModuleNotFoundError: If LIBERO is not installed.
        """
        played = [tasks(suite)[place] for suite in self.suites for place in self.places]
        assets, backend = find_assets(), offscreen()
        self.teardown("test")
        self._rollouts = Rollouts(
            partial(LiberoEnvironment, backend=backend, assets=assets.path),
            self.num_envs,
            self.n_action_steps,
        )
        about = self._about(played, assets, backend)
        folder = None if self.trainer is None else report_folder(self.trainer) / "videos"
        batches: list[RolloutBatch] = []
        for task in played:
            own = [
                self._episode(task, seed, camera, folder)
                for seed in range(self.num_episodes)
                for camera in self.camera_offset.offsets(seed)
            ]
            batches += [RolloutBatch(self._rollouts, some, about) for some in self._split(own)]
        return DataLoader(Batches(batches), batch_size=None, collate_fn=hand_on)

    def teardown(self, stage: str) -> None:
        """End the processes."""
        if self._rollouts is not None:
            self._rollouts.close()

    def _episode(
        self, task: str, seed: int, camera: CameraOffset, folder: Path | None
    ) -> EvalEpisode:
        video = None
        if folder is not None and seed < self.num_videos:
            video = str(folder / f"{task}_{seed}{suffix(camera)}.mp4")
        return EvalEpisode(task, seed, self._cap(task), video, camera)

    def _cap(self, task: str) -> int:
        if isinstance(self.max_steps, int):
            return self.max_steps
        return MAX_STEPS[self.max_steps][task.split("/")[0]]

    def _split(self, episodes: Sequence[EvalEpisode]) -> list[Sequence[EvalEpisode]]:
        """Batches that keep all environments busy, and of which every rank gets some."""
        ranks = 1 if self.trainer is None else self.trainer.world_size
        size = max(1, min(max(10, 4 * self.num_envs), -(-len(episodes) // ranks)))
        return [episodes[start : start + size] for start in range(0, len(episodes), size)]

    def _about(self, played: list[str], assets: Assets, backend: str) -> dict[str, Any]:
        found = versions()
        return {
            "max_steps": {task: self._cap(task) for task in played},
            "n_action_steps": self.n_action_steps,
            "num_envs": self.num_envs,
            "assets": assets.origin,
            "renderer": backend,
            "published": {suite: PUBLISHED[suite] for suite in self.suites},
            "notes": notes(assets, found["mujoco"]),
            "versions": {**found, "cuda": torch.version.cuda or "none"},
        }


def notes(assets: Assets, mujoco: str) -> list[str]:
    """Why figures do not compare with published ones, if they do not."""
    found = []
    if assets.reduced:
        found.append(
            f"The assets ({assets.origin}) are a reduced pack with replaced meshes and textures: "
            "figures compare only with figures on the same pack."
        )
    if tuple(int(part) for part in mujoco.split(".")[:3]) >= DARK:
        found.append(
            f"MuJoCo {mujoco} draws LIBERO's floors darker than the versions before 3.3.3 with "
            "which published policies were trained and tested: they lose by it here."
        )
    return found
