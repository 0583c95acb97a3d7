"""Evaluation episodes of the LIBERO suites."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch

from e0_lightning.envs.base import MakeEnvironment
from e0_lightning.envs.camera_orbit import CameraGrid
from e0_lightning.envs.libero import LiberoEnvironment, versions
from e0_lightning.envs.libero_assets import Assets, find_assets
from e0_lightning.envs.libero_tasks import (
    PERTURBATIONS,
    check_task,
    instruction,
    split_suite,
    tasks,
)
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.evaluation.episodes import EpisodesDataModule, InstructionOf
from e0_lightning.types import RenderQuality

MAX_STEPS = {
    "openvla": {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520},
    "lerobot": {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520},
}
"""Published maximum episode lengths, without the steps in which objects settle."""

NUM_TASKS, NUM_INITIAL_STATES = 10, 50
"""Tasks of a suite, official initial states of a task; the published protocol evaluates all."""

PUBLISHED_RATES = {
    "libero_spatial": {"E0, published": 0.972, "π0.5, published": 0.954},
    "libero_object": {"E0, published": 0.994, "π0.5, published": 0.984},
    "libero_goal": {"E0, published": 0.950, "π0.5, published": 0.972},
    "libero_10": {"E0, published": 0.922, "π0.5, published": 0.896},
}
"""Success rates in E0's paper (arXiv 2511.21542)."""

DARK_FLOORS = (3, 3, 3)
"""From this version on MuJoCo renders LIBERO's floors darker, and published policies fail more."""


class LiberoEpisodes(EpisodesDataModule):
    """Closed-loop episodes from LIBERO's official initial states.

    A validation uses the last initial states of each task. If a test includes them, its report
    notes that they are not held out from the choice of a checkpoint by ``val/success_rate``.

    Args:
        suites: Suites of ten tasks, such as libero_object.
        tasks: Indices of tasks in their suite, from 0; None for all ten.
        num_episodes: Episodes of each task in a test, from its first initial state on.
        num_envs: Environments that step in parallel, one process each; None for one per core.
        n_action_steps: Steps of a chunk that are executed before the policy acts again.
        max_steps: Maximum episode lengths: ``openvla`` (220, 280, 300, 520 steps for spatial,
            object, goal, 10), ``lerobot`` (280, 280, 300, 520), or one number for all.
        num_videos: Recorded episodes of each task and camera displacement in a test or a
            validation.
        camera_offset: Displacements of the third-person camera in a test.
        num_val_episodes: Episodes of each task in a validation.
        perturbations: LIBERO-PRO's versions of the suites that a test adds: ``object`` (other
            colors and sizes), ``swap`` (objects at each other's places), ``lan`` (reworded
            instructions), ``task`` (other goals in the same scenes).
        instructions: Instructions of a test instead of those of the tasks, whose success stays
            theirs: task to a sentence, or to ``{task: <name>}`` for the sentence of another task.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        suites: list[str],
        tasks: list[int] | None = None,
        num_episodes: int = NUM_INITIAL_STATES,
        num_envs: int | None = None,
        n_action_steps: int = 10,
        max_steps: str | int = "openvla",
        num_videos: int = 5,
        camera_offset: CameraGrid | None = None,
        num_val_episodes: int = 0,
        perturbations: Sequence[str] = (),
        instructions: dict[str, str | InstructionOf] | None = None,
    ) -> None:
        super().__init__(
            num_episodes=num_episodes,
            num_val_episodes=num_val_episodes,
            num_envs=num_envs,
            n_action_steps=n_action_steps,
            num_videos=num_videos,
            camera_offset=camera_offset,
            instructions=instructions,
        )
        if not suites:
            raise ValueError("suites: expected at least one suite, got none.")
        if max(num_episodes, num_val_episodes) > NUM_INITIAL_STATES:
            raise ValueError(
                f"num_episodes, num_val_episodes: expected at most {NUM_INITIAL_STATES}, the "
                f"initial states of a task, got {num_episodes} and {num_val_episodes}."
            )
        if tasks is not None and not (tasks and set(tasks) <= set(range(NUM_TASKS))):
            raise ValueError(f"tasks: expected indices from 0 to {NUM_TASKS - 1}, got {tasks}.")
        if isinstance(max_steps, str) and max_steps not in MAX_STEPS:
            raise ValueError(
                f"max_steps: expected a number or {' or '.join(MAX_STEPS)}, got {max_steps!r}."
            )
        if isinstance(max_steps, int) and max_steps < 1:
            raise ValueError(f"max_steps: expected at least 1, got {max_steps}.")
        if unknown := sorted(set(perturbations) - set(PERTURBATIONS)):
            raise ValueError(
                f"perturbations: expected some of {', '.join(PERTURBATIONS)}, got {unknown[0]!r}."
            )
        self.suites, self.perturbations, self.max_steps = suites, perturbations, max_steps
        self.task_indices = range(NUM_TASKS) if tasks is None else tasks

    def task_names(self) -> list[str]:
        """Names of the tasks, ``<suite>/<task>``; raises where a suite does not exist."""
        return [
            tasks(version)[index]
            for suite in self.suites
            for version in (suite, *(f"{suite}_{each}" for each in self.perturbations))
            for index in self.task_indices
        ]

    def test_seeds(self) -> range:
        """The first initial states."""
        return range(self.num_episodes)

    def val_seeds(self) -> range:
        """The last initial states."""
        return range(NUM_INITIAL_STATES - self.num_val_episodes, NUM_INITIAL_STATES)

    def max_steps_of(self, task: str) -> int:
        """Maximum episode length of a task."""
        if isinstance(self.max_steps, int):
            return self.max_steps
        return MAX_STEPS[self.max_steps][split_suite(task.split("/")[0])[0]]

    def instruction_of(self, task: str) -> str:
        """Instruction of a task, ``<suite>/<task>``; raises where it does not exist."""
        check_task(task)
        return instruction(task)

    def make_environment(self) -> MakeEnvironment:
        """Builds the environment of a task; raises where assets or a renderer are missing."""
        return partial(LiberoEnvironment, backend=offscreen(), assets=self._assets.path)

    def metadata(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Assets, renderer, versions, published rates, and notes on their comparability."""
        installed = versions()
        notes = comparability_notes(self._assets, installed["mujoco"], self.render_quality)
        comparable = not notes and isinstance(self.max_steps, str) and not self.instructions
        if shared := sorted(set(self.val_seeds()) & set(self.test_seeds())):
            notes.append(
                f"Validation during training uses initial states {shared[0]} to {shared[-1]}, "
                "which this test includes."
            )
        return {
            "assets": self._assets.source,
            "renderer": offscreen(),
            "published": {suite: _protocol(suite) for suite in self.suites if comparable},
            "notes": notes,
            "versions": {**installed, "cuda": torch.version.cuda or "none"},
        }

    @cached_property
    def _assets(self) -> Assets:
        return find_assets()


def comparability_notes(assets: Assets, mujoco: str, render_quality: RenderQuality) -> list[str]:
    """Reasons why success rates are not comparable with published ones, if any.

    Args:
        assets: The assets.
        mujoco: Version of MuJoCo.
        render_quality: How the views are rendered.
    """
    notes = []
    if assets.reduced:
        notes.append(
            f"The assets ({assets.source}) are a reduced pack with replaced meshes and textures: "
            "success rates are comparable only with rates on the same pack."
        )
    if tuple(int(part) for part in mujoco.split(".")[:3]) >= DARK_FLOORS:
        notes.append(
            f"MuJoCo {mujoco} renders LIBERO's floors darker than the versions before 3.3.3, with "
            "which published policies were trained and evaluated: their success rates are lower "
            "here."
        )
    if render_quality != "default":
        notes.append(
            "Images are rendered with fewer triangles, without reflections and multisampling, as "
            "those that the policy was trained on: success rates are not comparable with published "
            "ones."
        )
    return notes


def _protocol(suite: str) -> dict[str, Any]:
    return {
        "tasks": NUM_TASKS,
        "episodes": NUM_INITIAL_STATES,
        "rates": PUBLISHED_RATES.get(suite, {}),
    }
