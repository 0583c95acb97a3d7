"""``Detour-v1``, a ManiSkill task with two ways: reach a goal behind a post, on either side of it.

Importing this file registers the task and imports ManiSkill.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.sensors.camera import CameraConfig
from mani_skill.utils import sapien_utils
from mani_skill.utils.building import actors
from mani_skill.utils.registration import register_env
from mani_skill.utils.scene_builder.table import TableSceneBuilder
from mani_skill.utils.structs import Pose
from torch import Tensor

TASK = "Detour-v1"

START = (-0.31, 0.58, 0.0, -2.02, 0.0, 2.6, 0.475, 0.0, 0.0)
"""Joints at the start, radians and meters: the hand points down, 18 cm to the right of the middle
of the table, 5 cm above it, with closed fingers."""

MIDDLE = -0.05
"""Where start, post and goal lie on average, meters in front of the middle of the table: there the
arm reaches both ways around the post."""

UPRIGHT = (np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0)
"""Rotation of a cylinder, which lies along x, into the vertical: a quaternion, real part first."""


@register_env(TASK, max_episode_steps=100)
class DetourEnv(BaseEnv):  # type: ignore[misc]
    """Move the closed hand to the goal on the other side of a post, without touching the post.

    The straight line from start to goal leads through the post. It is 7.5 cm high, so that only the
    fingers can touch it and the arm passes above it. The goal is a disc that nothing collides with.

    An episode succeeds when the hand is above the goal and the post has never been touched.
    :meth:`evaluate` also gives ``touched``, and ``left``: whether the hand passes, or has passed,
    the post on the left in the direction of its motion, which is the robot's side. Start, post and
    goal are part of the state and visible to the camera.
    """

    SUPPORTED_ROBOTS = ("panda",)
    SUPPORTED_REWARD_MODES = ("sparse", "none")

    post_radius = 0.04
    post_height = 0.075
    goal_radius = 0.025
    goal_distance = 0.18
    """Distance of the goal from the post along y, the direction of the motion, on average."""

    def __init__(
        self,
        *args: Any,
        robot_uids: str = "panda",
        robot_init_qpos_noise: float = 0.01,
        **kwargs: Any,
    ) -> None:
        self.robot_init_qpos_noise = robot_init_qpos_noise
        super().__init__(*args, robot_uids=robot_uids, **kwargs)

    @property
    def _default_sensor_configs(self) -> list[CameraConfig]:
        pose = sapien_utils.look_at(eye=[0.35, 0, 0.5], target=[MIDDLE, 0, 0.0])
        return [CameraConfig("base_camera", pose, 128, 128, np.pi / 2, 0.01, 100)]

    @property
    def _default_human_render_camera_configs(self) -> CameraConfig:
        pose = sapien_utils.look_at([0.5, 0.4, 0.6], [MIDDLE, 0.0, 0.1])
        return CameraConfig("render_camera", pose, 512, 512, 1, 0.01, 100)

    def _load_agent(self, options: dict[str, Any]) -> None:
        super()._load_agent(options, sapien.Pose(p=[-0.615, 0, 0]))

    def _load_scene(self, options: dict[str, Any]) -> None:
        self.table_scene = TableSceneBuilder(self)
        self.table_scene.build()
        self.post = actors.build_cylinder(
            self.scene,
            radius=self.post_radius,
            half_length=self.post_height / 2,
            color=[0.8, 0.2, 0.1, 1],
            name="post",
            body_type="kinematic",
            initial_pose=sapien.Pose(q=UPRIGHT),
        )
        self.goal = actors.build_cylinder(
            self.scene,
            radius=self.goal_radius,
            half_length=1e-3,
            color=[0.1, 0.6, 0.2, 1],
            name="goal",
            body_type="kinematic",
            add_collision=False,
            initial_pose=sapien.Pose(q=UPRIGHT),
        )
        self.touched, self.left = torch.zeros(
            2, self.num_envs, dtype=torch.bool, device=self.device
        )

    def _initialize_episode(self, env_idx: Tensor, options: dict[str, Any]) -> None:
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            n = len(env_idx)
            noise = self.robot_init_qpos_noise * torch.randn(n, len(START))
            noise[:, -2:] = 0  # the fingers stay closed
            self.agent.reset(torch.tensor(START) + noise)
            post, goal = torch.zeros(n, 3), torch.zeros(n, 3)
            post[:, :2] = torch.rand(n, 2) * 0.04 - 0.02
            goal[:, :2] = torch.rand(n, 2) * 0.1 - 0.05
            goal[:, 1] += self.goal_distance
            post[:, 2], goal[:, 2] = self.post_height / 2, 1e-3
            for actor, position in ((self.post, post), (self.goal, goal)):
                position[:, 0] += MIDDLE
                actor.set_pose(Pose.create_from_pq(position, UPRIGHT))
            self.touched[env_idx] = False

    def _after_simulation_step(self) -> None:
        # After each of the physics steps of a control step, so that no short contact is missed. The
        # post is kinematic and has no contact with the table.
        self.touched |= self.post.get_net_contact_forces().norm(dim=-1) > 0

    def evaluate(self) -> dict[str, Tensor]:
        """Success, and whether and on which side the post was passed; each ``(num_envs,)`` bool."""
        hand, post = self.agent.tcp.pose.p, self.post.pose.p
        before = hand[:, 1] < post[:, 1]
        self.left = torch.where(before, hand[:, 0] < post[:, 0], self.left)
        distance = (hand - self.goal.pose.p)[:, :2].norm(dim=-1)
        success = (distance < self.goal_radius) & ~self.touched
        return {"success": success, "touched": self.touched.clone(), "left": self.left}

    def _get_obs_extra(self, info: dict[str, Any]) -> dict[str, Tensor]:
        return {
            "tcp_pose": self.agent.tcp.pose.raw_pose,
            "goal_pos": self.goal.pose.p,
            "obstacle_pos": self.post.pose.p,
        }
