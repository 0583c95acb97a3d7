"""The simulation of gym-aloha's tasks, stepped without rendering."""

from __future__ import annotations

import importlib.metadata
import os

import numpy as np
from numpy.typing import NDArray

from e0_lightning.envs.base import Frame
from e0_lightning.envs.mujoco_gl import gl_variables

TASKS = {
    "AlohaTransferCube-v0": (
        "transfer_cube",
        "Pick up the cube with the right arm and transfer it to the left arm.",
    ),
    "AlohaInsertion-v0": ("insertion", "Insert the peg into the socket."),
}
"""Task name to gym-aloha's name of it and its instruction."""

CAMERA = "top"
"""The camera of ACT's simulated recordings."""

FRAME_SIZE = (480, 640)
"""Height and width of ACT's recordings."""

SUCCESS = 4
"""Reward of a solved task: the cube is in the left gripper, or the peg touches the socket's pin."""

SUBSTEPS = 10
"""Physics steps of 2 ms per action: 50 Hz."""


class AlohaSimulation:
    """Two ViperX arms with 14 absolute joint targets: gym-aloha's own environment.

    gym-aloha renders three cameras after every action, 0.4 s in software. This class steps the same
    physics and renders on request alone.

    Args:
        task: Name of the task.
        backend: MuJoCo's rendering backend, ``egl`` or ``osmesa``.

    Raises:
        ValueError: If gym-aloha has no such task.
        ModuleNotFoundError: If gym-aloha is not installed.
    """

    def __init__(self, task: str, backend: str) -> None:
        check_task(task)
        os.environ.update(gl_variables(backend))
        from gym_aloha.env import AlohaEnv

        self.task = task
        env = AlohaEnv(TASKS[task][0], obs_type="pixels_agent_pos")._env
        self.physics, self._rules = env.physics, env.task

    def reset(self, seed: int) -> None:
        """Place the objects as gym-aloha does for this seed, with both arms in their start pose."""
        from gym_aloha.tasks import sim

        sim.BOX_POSE[0] = object_poses(self.task, seed)
        with self.physics.reset_context():
            self._rules.initialize_episode(self.physics)

    def step(self, action: NDArray[np.float64]) -> int:
        """Execute joint targets, ``(14,)``, for 20 ms; returns the reward, 0 to 4."""
        self._rules.before_step(action, self.physics)
        self.physics.step(SUBSTEPS)
        return int(self._rules.get_reward(self.physics))

    def qpos(self) -> NDArray[np.float64]:
        """Joint positions, ``(14,)``: six joints in rad and gripper (0 closed, 1 open) per arm."""
        positions: NDArray[np.float64] = self._rules.get_qpos(self.physics)
        return positions

    def qvel(self) -> NDArray[np.float64]:
        """Joint velocities, ``(14,)``, in the order of :meth:`qpos`."""
        velocities: NDArray[np.float64] = self._rules.get_qvel(self.physics)
        return velocities

    def render(self, height: int, width: int) -> Frame:
        """Render the camera, ``(height, width, 3)``."""
        frame: Frame = self.physics.render(height=height, width=width, camera_id=CAMERA)
        return frame

    def close(self) -> None:
        """Free the scene and its rendering context."""
        self.physics.free()


def object_poses(task: str, seed: int) -> NDArray[np.float64]:
    """Positions and quaternions (wxyz) of a task's objects for a seed, ``(7,)`` each, joined."""
    from gym_aloha.utils import sample_box_pose, sample_insertion_pose

    if TASKS[task][0] == "insertion":
        return np.concatenate(sample_insertion_pose(seed))
    return np.asarray(sample_box_pose(seed))


def check_task(task: str) -> None:
    """Refuse a task that gym-aloha does not have.

    Raises:
        ValueError: If it is another.
        ModuleNotFoundError: If gym-aloha is not installed.
    """
    if task not in TASKS:
        raise ValueError(f"expected a task of gym-aloha, {' or '.join(TASKS)}, got {task!r}.")
    try:
        importlib.metadata.version("gym-aloha")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            "gym-aloha is not installed: pip install 'e0-lightning[aloha]'."
        ) from error


def versions() -> dict[str, str]:
    """Versions of simulator and renderer."""
    packages = ("gym-aloha", "dm_control", "mujoco", "numpy")
    return {name: importlib.metadata.version(name) for name in packages}
