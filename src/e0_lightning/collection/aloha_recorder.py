"""One gym-aloha demonstration, recorded as ACT's recorder does."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.collection.aloha_expert import AlohaExpert
from e0_lightning.envs.aloha_simulation import CAMERA, FRAME_SIZE, SUCCESS, AlohaSimulation


class AlohaRecorder:
    """Demonstrates a task with the scripted expert, one seed after another.

    Args:
        task: Name of the task.
        backend: MuJoCo's OpenGL backend.
    """

    def __init__(self, task: str, backend: str) -> None:
        self.simulation = AlohaSimulation(task, backend)
        self.expert = AlohaExpert(task)

    def demonstrate(self, seed: int, path: Path) -> str:
        """Attempt a seed, and record it if the replay of its joint targets succeeds.

        Returns:
            Why it failed, empty if `path` was written.
        """
        # Rounded as they are stored, so that replaying the file leads to the same states.
        targets = self.expert.joint_targets(seed).astype(np.float32).astype(np.float64)
        self.simulation.reset(seed)
        reward = max(self.simulation.step(target) for target in targets)
        if reward < SUCCESS:
            return f"the highest reward of the replay was {reward} of {SUCCESS}"
        # Replayed once more to record images, which cost a hundred times as much as the physics:
        # the same targets from the same seed lead to the same states.
        self._record(seed, targets, path)
        return ""

    def _record(self, seed: int, targets: NDArray[np.float64], path: Path) -> None:
        """Write ACT's layout: observation t precedes action t; no compression."""
        import h5py

        steps, joints = targets.shape
        self.simulation.reset(seed)
        with h5py.File(path, "w") as file:
            file.attrs["sim"] = True
            observations = file.create_group("observations")
            frame = (*FRAME_SIZE, 3)
            images = observations.create_group("images").create_dataset(
                CAMERA, (steps, *frame), "uint8", chunks=(1, *frame)
            )
            positions = observations.create_dataset("qpos", (steps, joints), "float32")
            velocities = observations.create_dataset("qvel", (steps, joints), "float32")
            for step, target in enumerate(targets):
                images[step] = self.simulation.render(*FRAME_SIZE)
                positions[step] = self.simulation.qpos()
                velocities[step] = self.simulation.qvel()
                self.simulation.step(target)
            file.create_dataset("action", data=targets, dtype="float32")

    def close(self) -> None:
        """Free both scenes."""
        self.simulation.close()
        self.expert.close()


def work(connection: Connection, task: str, backend: str) -> None:
    """Demonstrate what is received as ``(task, seed, path)``; see `collect_episodes`."""
    recorder = AlohaRecorder(task, backend)
    while True:
        _, seed, path = connection.recv()
        try:
            result: Any = recorder.demonstrate(seed, path)
        except Exception as error:
            result = error
        connection.send(result)
