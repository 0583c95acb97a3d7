"""Evaluation episodes of ManiSkill with DROID's robot."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from e0_lightning.envs.base import MakeEnvironment
from e0_lightning.envs.droid import DroidEnvironment
from e0_lightning.envs.droid_panda import CONTROL_PERIOD
from e0_lightning.evaluation.maniskill_episodes import ManiSkillEpisodes


class DroidEpisodes(ManiSkillEpisodes):
    """Closed-loop episodes of ManiSkill tasks, observed and controlled as DROID's robot at 15 Hz.

    Arguments are those of :class:`ManiSkillEpisodes`; cameras cannot be displaced.

    Raises:
        ValueError: If the backend is ``gpu``, or as in :class:`ManiSkillEpisodes`.
    """

    def task_names(self) -> list[str]:
        """Names of the tasks; raises where one does not exist, or the backend is not ``cpu``."""
        if self.backend != "cpu":
            raise ValueError(
                f"backend: expected cpu for DROID's robot, got {self.backend}. Leave it out."
            )
        return super().task_names()

    def make_environment(self) -> MakeEnvironment:
        """Builds the environment of a task."""
        return partial(DroidEnvironment, instructions=self.task_instructions)

    def metadata(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Seeds, instructions, versions and control frequency."""
        return {**super().metadata(tasks), "control_freq": round(1 / CONTROL_PERIOD)}
