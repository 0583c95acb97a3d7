"""``PrecisePick-v1``, a ManiSkill task of fine control: hold a cube within 2 mm of a goal.

Importing this file registers the task and imports ManiSkill.
"""

from __future__ import annotations

from typing import Any

import torch
from mani_skill.envs.tasks import PickCubeEnv
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs import Pose
from torch import Tensor

TASK = "PrecisePick-v1"

TOLERANCES = {"within_10mm": 0.010, "within_5mm": 0.005, "success": 0.002}
"""Flag of an episode to the distance of the cube from the goal that it stands for, meters."""

HOLD_STEPS = 10
"""Control steps in a row, half a second together, for which the cube must be that close."""


@register_env(TASK, max_episode_steps=200)
class PrecisePickEnv(PickCubeEnv):  # type: ignore[misc]
    """PickCube-v1 with a goal of 2 mm instead of 25, and a cube that lies parallel to the hand.

    A tolerance is met once the cube has been that close for ``HOLD_STEPS``; meeting the smallest is
    success. The cube's position is always part of the state.
    """

    SUPPORTED_REWARD_MODES = ("sparse", "none")

    def _load_scene(self, options: dict[str, Any]) -> None:
        super()._load_scene(options)
        shape = (self.num_envs, len(TOLERANCES))
        self.tolerances = torch.tensor(list(TOLERANCES.values()), device=self.device)
        self.steps_within = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self.held = torch.zeros(shape, dtype=torch.bool, device=self.device)

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        super()._initialize_episode(env_idx, options)
        self.cube.set_pose(Pose.create_from_pq(self.cube.pose.p[env_idx]))
        self.steps_within[env_idx], self.held[env_idx] = 0, False

    def _after_control_step(self) -> None:
        distance = (self.cube.pose.p - self.goal_site.pose.p).norm(dim=-1, keepdim=True)
        self.steps_within = (self.steps_within + 1) * (distance <= self.tolerances)
        self.held |= self.steps_within >= HOLD_STEPS

    def evaluate(self) -> dict[str, Tensor]:
        """Success, and the other tolerances that have been met; each ``(num_envs,)`` bool."""
        flags = dict(zip(TOLERANCES, self.held.clone().unbind(-1), strict=True))
        return {"is_grasped": self.agent.is_grasping(self.cube), **flags}

    def _get_obs_extra(self, info: dict[str, Any]) -> dict[str, Tensor]:
        return {
            "tcp_pose": self.agent.tcp_pose.raw_pose,
            "goal_pos": self.goal_site.pose.p,
            "cube_pos": self.cube.pose.p,
        }
