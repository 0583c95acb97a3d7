"""An environment without a simulator: a corridor that ends at a goal."""

import os
import signal
import time

import numpy as np
import torch

from e0_lightning.envs.base import EnvObservation, StepResult
from e0_lightning.envs.camera_orbit import CameraError
from e0_lightning.types import PolicySpec

SPEC = PolicySpec(
    views={"front": 4},
    state={"position": 1, "goal": 1},
    action_dim=2,
    control_mode="walk",
    horizon=6,
)

INSTRUCTIONS = {"corridor": "walk on", "passage": "walk back"}

RAISES, DIES, HANGS = 13, 14, 15
"""Seeds whose episodes fail at the third step."""


class Corridor:
    """The first action dimension is the displacement, the goal is at `seed`, images show x."""

    def __init__(self, task, spec):
        if task == "locked":
            raise ValueError("the corridor is locked")
        self.spec, self.instruction = spec, INSTRUCTIONS.get(task, "walk on")

    def reset(self, seed, camera):
        if camera[1] > 60:
            raise CameraError("the ceiling is low")
        self.seed, self.position, self.steps = seed, 0.0, 0
        return self._observe()

    def run(self, actions, last, on_frame):
        for n, action in enumerate(actions, start=1):
            self.position += float(action[0])
            self.steps += 1
            if self.steps == 3:
                self._fail()
            if on_frame is not None:
                on_frame(np.full((32, 32, 3), int(self.position), np.uint8))
            if self.position >= self.seed:
                return StepResult(None, True, n)
        return StepResult(None if last else self._observe(), False, len(actions))

    def close(self):
        pass

    def _fail(self):
        if self.seed == RAISES:
            raise RuntimeError("the floor gave way")
        if self.seed == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.seed == HANGS:
            time.sleep(3600)

    def _observe(self):
        image = np.zeros((4, 4, 3), np.uint8)
        image[0, 1] = int(self.position), 7, 9
        state = np.array([self.position, self.seed], np.float32)
        return EnvObservation(
            {"front": image}, state, self.instruction, {"front": np.eye(3, dtype=np.float32)}
        )


class Walker:
    """Moves by a constant displacement per step; records its observations."""

    def __init__(self, stride=1.0, spec=SPEC):
        self.stride, self.spec, self.observations = stride, spec, []

    def act(self, observation):
        self.observations.append(observation)
        actions = torch.zeros(len(observation["state"]), 6, 2)
        actions[..., 0] = self.stride
        return actions


class RandomWalker(Walker):
    """Samples its displacements from the noise seed of each row; records actions by goal."""

    def __init__(self):
        super().__init__()
        self.actions = {}

    def act(self, observation):
        rows = []
        for state, seed in zip(observation["state"], observation["noise_seed"], strict=True):
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.rand(6, 2, generator=generator))
            self.actions.setdefault(int(state[1]), []).append(rows[-1])
        return torch.stack(rows)
