"""Evaluation episodes of PushT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from e0_lightning.data.formats.pusht import INSTRUCTION
from e0_lightning.envs.base import MakeEnvironment
from e0_lightning.envs.pusht import MAX_STEPS, TASK, PushTEnvironment, check_installed, versions
from e0_lightning.evaluation.episodes import EpisodesDataModule


class PushTEpisodes(EpisodesDataModule):
    """Closed-loop episodes of gym-pusht's PushT, on initial states sampled by seed.

    Beside its success, an episode has a score: the largest share of the target that the block has
    covered, divided by the 95 % of a success, at most 1.

    Args:
        num_episodes: Episodes of a test, on the seeds from `first_seed` on.
        first_seed: First seed of the test.
        num_envs: Environments that step in parallel, one process each; None for one per core.
        n_action_steps: Steps of a chunk that are executed before the policy acts again.
        max_steps: Maximum episode length.
        num_videos: Recorded episodes in a test or a validation.
        num_val_episodes: Episodes of a validation, on the seeds before `first_seed`.
        instructions: ``{PushT-v0: <sentence>}``: the instruction of a test instead of the task's.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        num_episodes: int = 50,
        first_seed: int = 100_000,
        num_envs: int | None = None,
        n_action_steps: int = 8,
        max_steps: int = MAX_STEPS,
        num_videos: int = 3,
        num_val_episodes: int = 0,
        instructions: dict[str, str] | None = None,
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
        if first_seed < num_val_episodes:
            raise ValueError(
                f"first_seed: expected at least num_val_episodes ({num_val_episodes}), because "
                f"validation uses the seeds before it, got {first_seed}."
            )
        if max_steps < 1:
            raise ValueError(f"max_steps: expected at least 1, got {max_steps}.")
        self.first_seed, self.max_steps = first_seed, max_steps

    def task_names(self) -> list[str]:
        """The one task; raises where gym-pusht is not installed."""
        check_installed()
        return [TASK]

    def test_seeds(self) -> range:
        """Seeds from `first_seed` on."""
        return range(self.first_seed, self.first_seed + self.num_episodes)

    def val_seeds(self) -> range:
        """Seeds before `first_seed`."""
        return range(self.first_seed - self.num_val_episodes, self.first_seed)

    def max_steps_of(self, task: str) -> int:
        """Maximum episode length."""
        return self.max_steps

    def instruction_of(self, task: str) -> str:
        """Instruction of the one task."""
        return INSTRUCTION

    def make_environment(self) -> MakeEnvironment:
        """Builds the environment."""
        return PushTEnvironment

    def metadata(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Seeds, instruction and versions."""
        return {
            "first_seed": self.first_seed,
            "instructions": {TASK: INSTRUCTION},
            "versions": versions(),
        }
