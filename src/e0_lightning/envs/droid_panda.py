"""ManiSkill's Panda behind the interface of DROID's robot: joint velocities, 15 Hz, two cameras.

Units and conventions are those of ``droid/franka/robot.py`` (droid-dataset/droid):

- A joint velocity in [-1, 1] moves a joint by up to 0.2 rad in a control period: the target of a
  joint is its measured position plus 0.2 times the velocity. If any velocity exceeds 1, all are
  scaled down.
- The gripper is 0 when open and 1 when closed, in the state (1 - width / largest width) and in
  actions. ManiSkill's fingers are each at 0.04 m when open and at 0 when closed, and its actions
  are 1 when open and -1 when closed.
- Targets persist: between two commands the controller holds the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e0_lightning.envs.base import Frame
from e0_lightning.envs.maniskill import RECONFIGURATION_FREQ
from e0_lightning.envs.vulkan import backend

Floats = NDArray[np.float32]

CONTROL_PERIOD = 1 / 15
"""Seconds."""

PHYSICS_STEPS = 8
"""Steps of the physics in a control period."""

MAX_JOINT_DELTA = 0.2
"""Radians that a joint moves in a control period at velocity 1."""

FINGER_RANGE = 0.04
"""Position of an open finger, metres."""

CAMERAS = {"exterior_image_1_left": "base_camera", "wrist_image_left": "hand_camera"}
"""DROID's views and the cameras of ManiSkill that stand for them."""

CAMERA_SIZE = (360, 640)
"""Rows and columns of the cameras' frames."""


class DroidPanda:
    """One ManiSkill task with a Panda that is observed and controlled as DROID's.

    Args:
        task: ManiSkill's name of the task.
        views: DROID's views whose cameras are rendered.
    """

    def __init__(self, task: str, views: Sequence[str] = tuple(CAMERAS)) -> None:
        import gymnasium
        import mani_skill.envs  # noqa: F401  (registers the tasks)

        # Some tasks list the robot without its camera only, and warn of the other.
        logging.getLogger("mani_skill ").setLevel(logging.ERROR)
        rate = round(1 / CONTROL_PERIOD)
        height, width = CAMERA_SIZE
        env: Any = gymnasium.make(
            task,
            robot_uids="panda_wristcam",
            obs_mode="rgb",
            reward_mode="none",
            control_mode="pd_joint_pos",
            render_mode="rgb_array",
            sim_config={"control_freq": rate, "sim_freq": rate * PHYSICS_STEPS},
            sensor_configs={"shader_pack": "default", "height": height, "width": width},
            sim_backend="physx_cpu",
            render_backend=backend(),
            reconfiguration_freq=RECONFIGURATION_FREQ,
        )
        self.views = {view: CAMERAS[view] for view in views}
        self.simulation: Any = env.unwrapped
        """ManiSkill's environment, without gymnasium's wrappers."""
        self._target = np.zeros(8, np.float32)

    def reset(self, seed: int) -> None:
        """Start the episode of a seed, with the gripper open; the arm holds its position."""
        self.simulation._obs_mode = "none"
        self.simulation.reset(seed=seed)
        for camera in set(self.simulation._sensors) - set(self.views.values()):
            del self.simulation._sensors[camera]
        self._target = np.append(self.joint_position, np.float32(1))

    @property
    def joint_position(self) -> Floats:
        """``(7,)``, radians."""
        return self._qpos()[:7]

    @property
    def gripper_position(self) -> Floats:
        """``(1,)``, 0 open to 1 closed."""
        return 1 - self._qpos()[7:8] / np.float32(FINGER_RANGE)

    def frames(self) -> dict[str, Frame]:
        """View to the current frame of its camera, ``(360, 640, 3)`` uint8 RGB."""
        # Without an observation mode the steps render nothing.
        self.simulation._obs_mode = "rgb"
        sensors = self.simulation.get_obs()["sensor_data"] if self.views else {}
        self.simulation._obs_mode = "none"
        return {view: sensors[name]["rgb"][0].cpu().numpy() for view, name in self.views.items()}

    def command(self, action: ArrayLike) -> None:
        """Set the targets of joints and gripper by an action of DROID, ``(8,)``."""
        values = np.asarray(action, np.float32)
        velocity = values[:7] / max(1, float(np.abs(values[:7]).max()))
        joints = self.joint_position + MAX_JOINT_DELTA * velocity
        self._target = np.append(joints, 1 - 2 * values[7].clip(0, 1)).astype(np.float32)

    def advance(self, physics_steps: int = PHYSICS_STEPS) -> bool:
        """Let time pass with the last targets; returns whether the task is solved then."""
        if physics_steps == 0:
            return False
        # A step of ManiSkill is a control period, in which the targets are constant.
        self.simulation._sim_steps_per_control = physics_steps
        info = self.simulation.step(self._target)[-1]
        return bool(info["success"].item())

    def close(self) -> None:
        """Free the scene."""
        self.simulation.close()

    def _qpos(self) -> Floats:
        qpos: Floats = self.simulation.agent.robot.get_qpos()[0].cpu().numpy()
        return qpos


def joint_velocity(target: ArrayLike, position: ArrayLike) -> Floats:
    """Velocity that moves joints to a target in one control period, clipped to [-1, 1]."""
    delta = np.asarray(target, np.float32) - np.asarray(position, np.float32)
    return np.clip(delta / np.float32(MAX_JOINT_DELTA), -1, 1)
