"""An actor meets a world: environments, rollouts, episodes, reports.

`ManiSkillEpisodes` and `RolloutReport` are handed on by the package itself: worker processes load
this room, and loading Lightning would cost each of them more than the simulator.
"""

from e0_lightning.simulation.base import Environment, Episode, Outcome, View
from e0_lightning.simulation.rollout import RolloutBatch, Rollouts

__all__ = ["Environment", "Episode", "Outcome", "RolloutBatch", "Rollouts", "View"]
