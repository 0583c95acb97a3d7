"""Evaluation episodes of ManiSkill."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.base import MakeEnvironment
from e0_lightning.envs.camera_orbit import CameraGrid
from e0_lightning.envs.maniskill import (
    DEFAULT_MAX_STEPS,
    MAX_STEPS,
    ManiSkillBatch,
    ManiSkillEnvironment,
    check_gpu,
    check_task,
    versions,
)
from e0_lightning.evaluation.batched_rollouts import BatchedRollouts
from e0_lightning.evaluation.episodes import EpisodesDataModule, InstructionOf
from e0_lightning.evaluation.rollout import EpisodeRunner

SIMPLIFIED = (
    "The robot is rendered with a tenth of its triangles, as in the images that the policy was "
    "trained on."
)
"""Note on evaluations at the render quality ``fast``."""


class ManiSkillEpisodes(EpisodesDataModule):
    """Closed-loop episodes of ManiSkill tasks, on seeds that no demonstration uses.

    Args:
        tasks: Names of tasks, or a dictionary of task to instruction to replace its own.
        num_episodes: Episodes of each task in a test, on the seeds from `first_seed` on.
        first_seed: First seed of the test; demonstrations have small ones.
        num_envs: Environments that step in parallel, one process each; None for one per core. With
            the backend ``gpu``, scenes of one simulation.
        n_action_steps: Steps of a chunk that are executed before the policy acts again.
        max_steps: Maximum episode length, for all tasks or by task; None for `MAX_STEPS`.
        num_videos: Recorded episodes of each task in a test or a validation.
        num_val_episodes: Episodes of each task in a validation, on the seeds before `first_seed`.
        camera_offset: Displacements of the fixed cameras in a test.
        instructions: Instructions of a test instead of those of the tasks, whose success stays
            theirs: task to a sentence, or to ``{task: <name>}`` for the sentence of another task.
        backend: ``cpu``, or ``gpu`` for ManiSkill's simulation of many scenes at once, on a CUDA
            card. There a seed starts another episode than on the CPU, and cameras are not
            displaced.

    Raises:
        ValueError: If a number is out of range, or `max_steps` names another task.
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
        instructions: dict[str, str | InstructionOf] | None = None,
        backend: Literal["cpu", "gpu"] = "cpu",
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
        if not tasks:
            raise ValueError("tasks: expected at least one task, got none.")
        if first_seed < num_val_episodes:
            raise ValueError(
                f"first_seed: expected at least num_val_episodes ({num_val_episodes}), because "
                f"validation uses the seeds before it, got {first_seed}."
            )
        if isinstance(max_steps, dict) and (unknown := set(max_steps) - set(tasks)):
            raise ValueError(
                f"max_steps: expected tasks among {', '.join(tasks)}, got {', '.join(unknown)}."
            )
        self.tasks, self.first_seed, self.backend = list(tasks), first_seed, backend
        self.max_steps = {task: _max_steps(task, max_steps) for task in self.tasks}
        if min(self.max_steps.values()) < 1:
            raise ValueError(f"max_steps: expected at least 1, got {max_steps}.")
        given = tasks if isinstance(tasks, dict) else {}
        self.task_instructions = {**INSTRUCTIONS, **given}

    def task_names(self) -> list[str]:
        """Names of the tasks; raises where one does not exist, or the backend has no device."""
        if self.backend == "gpu":
            check_gpu()
        for task in self.tasks:
            check_task(task, self.task_instructions)
        return self.tasks

    def test_seeds(self) -> range:
        """Seeds from `first_seed` on."""
        return range(self.first_seed, self.first_seed + self.num_episodes)

    def val_seeds(self) -> range:
        """Seeds before `first_seed`."""
        return range(self.first_seed - self.num_val_episodes, self.first_seed)

    def max_steps_of(self, task: str) -> int:
        """Maximum episode length of a task."""
        return self.max_steps[task]

    def instruction_of(self, task: str) -> str:
        """Instruction of a task; raises where it does not exist or has no instruction."""
        check_task(task, self.task_instructions)
        return self.task_instructions[task]

    def make_environment(self) -> MakeEnvironment:
        """Builds the environment of a task."""
        return partial(ManiSkillEnvironment, instructions=self.task_instructions)

    def make_rollouts(self) -> EpisodeRunner:
        """Runs the episodes in processes on the CPU, or in one simulation on a GPU."""
        if self.backend == "cpu":
            return super().make_rollouts()
        make = partial(ManiSkillBatch, instructions=self.task_instructions)
        return BatchedRollouts(make, self.num_envs, self.n_action_steps)

    def metadata(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Seeds, instructions, versions, and a note on images that are not ManiSkill's own."""
        fast = self.render_quality == "fast"
        return {
            "notes": [SIMPLIFIED] if fast else [],
            "first_seed": self.first_seed,
            "instructions": {task: self.task_instructions[task] for task in tasks},
            "versions": versions() | ({"simulation": "gpu"} if self.backend == "gpu" else {}),
        }


def _max_steps(task: str, max_steps: int | dict[str, int] | None) -> int:
    if isinstance(max_steps, int):
        return max_steps
    return (max_steps or {}).get(task, MAX_STEPS.get(task, DEFAULT_MAX_STEPS))
