"""Evaluation episodes of gym-aloha."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from e0_lightning.envs.aloha import AlohaEnvironment
from e0_lightning.envs.aloha_simulation import TASKS, check_task, versions
from e0_lightning.envs.base import MakeEnvironment
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.evaluation.episodes import EpisodesDataModule, InstructionOf

MAX_STEPS = 400
"""Episode length in ACT, 8 s. gym-aloha registers 300 steps."""


class AlohaEpisodes(EpisodesDataModule):
    """Closed-loop episodes of gym-aloha's tasks, on seeds that no demonstration uses.

    Args:
        tasks: Names of tasks; None for the transfer of the cube.
        num_episodes: Episodes of each task in a test, on the seeds from `first_seed` on.
        first_seed: First seed of the test; demonstrations have small ones.
        num_envs: Environments that step in parallel, one process each; None for one per core.
        n_action_steps: Steps of a chunk that are executed before the policy acts again.
        max_steps: Maximum episode length.
        num_videos: Recorded episodes of each task in a test or a validation; each costs a rendered
            frame per step.
        num_val_episodes: Episodes of each task in a validation, on the seeds before `first_seed`.
        instructions: Instructions of a test instead of those of the tasks, whose success stays
            theirs: task to a sentence, or to ``{task: <name>}`` for the sentence of another task.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        tasks: list[str] | None = None,
        num_episodes: int = 50,
        first_seed: int = 100_000,
        num_envs: int | None = None,
        n_action_steps: int = 25,
        max_steps: int = MAX_STEPS,
        num_videos: int = 1,
        num_val_episodes: int = 0,
        instructions: dict[str, str | InstructionOf] | None = None,
    ) -> None:
        super().__init__(
            num_episodes=num_episodes,
            num_val_episodes=num_val_episodes,
            num_envs=num_envs,
            n_action_steps=n_action_steps,
            num_videos=num_videos,
            camera_offset=None,
            instructions=instructions,
        )
        if first_seed < num_val_episodes or max_steps < 1:
            raise ValueError(
                "first_seed, max_steps: expected at least num_val_episodes "
                f"({num_val_episodes}), because validation uses the seeds before the first, and "
                f"at least 1, got {first_seed} and {max_steps}."
            )
        self.tasks = tasks or [next(iter(TASKS))]
        self.first_seed, self.max_steps = first_seed, max_steps

    def task_names(self) -> list[str]:
        """Names of the tasks; raises where one does not exist."""
        for task in self.tasks:
            check_task(task)
        return self.tasks

    def test_seeds(self) -> range:
        """Seeds from `first_seed` on."""
        return range(self.first_seed, self.first_seed + self.num_episodes)

    def val_seeds(self) -> range:
        """Seeds before `first_seed`."""
        return range(self.first_seed - self.num_val_episodes, self.first_seed)

    def max_steps_of(self, task: str) -> int:
        """Maximum episode length, of all tasks."""
        return self.max_steps

    def instruction_of(self, task: str) -> str:
        """Instruction of a task; raises where it does not exist."""
        check_task(task)
        return TASKS[task][1]

    def make_environment(self) -> MakeEnvironment:
        """Builds the environment of a task; raises where nothing can render."""
        return partial(AlohaEnvironment, backend=offscreen())

    def metadata(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Seeds, instructions, renderer and versions."""
        return {
            "first_seed": self.first_seed,
            "instructions": {task: TASKS[task][1] for task in tasks},
            "renderer": offscreen(),
            "versions": versions(),
        }
