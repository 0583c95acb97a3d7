"""A world to test rollouts in: a corridor to walk along, without a simulator."""

import os
import signal
import time

import numpy as np
import torch

from e0_lightning.envs.base import EnvObservation, StepResult
from e0_lightning.envs.camera_orbit import CameraError
from e0_lightning.types import PolicySpec

SPEC = PolicySpec(
    views={"front": 4}, state={"place": 1, "goal": 1}, action_dim=2, control_mode="walk", horizon=6
)

RAISES, DIES, HANGS = 13, 14, 15
"""Seeds whose episodes go wrong at the third step."""


class Corridor:
    """The first action dimension is a step, the goal lies `seed` away, images show the place."""

    def __init__(self, task, spec):
        if task == "locked":
            raise ValueError("the corridor is locked")
        self.spec = spec

    def reset(self, seed, camera):
        if camera[1] > 60:
            raise CameraError("the ceiling is low")
        self.seed, self.place, self.steps = seed, 0.0, 0
        return self._view()

    def run(self, actions, last, on_frame):
        for n, action in enumerate(actions, start=1):
            self.place += float(action[0])
            self.steps += 1
            if self.steps == 3:
                self._go_wrong()
            if on_frame is not None:
                on_frame(np.full((32, 32, 3), int(self.place), np.uint8))
            if self.place >= self.seed:
                return StepResult(None, True, n)
        return StepResult(None if last else self._view(), False, len(actions))

    def close(self):
        pass

    def _go_wrong(self):
        if self.seed == RAISES:
            raise RuntimeError("the floor gave way")
        if self.seed == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.seed == HANGS:
            time.sleep(3600)

    def _view(self):
        image = np.zeros((4, 4, 3), np.uint8)
        image[0, 1] = int(self.place), 7, 9
        state = np.array([self.place, self.seed], np.float32)
        return EnvObservation(
            {"front": image}, state, "walk on", {"front": np.eye(3, dtype=np.float32)}
        )


class Walker:
    """Walks one unit a step, or as told; remembers what it was shown."""

    def __init__(self, stride=1.0, spec=SPEC):
        self.stride, self.spec, self.shown = stride, spec, []

    def act(self, observation):
        self.shown.append(observation)
        actions = torch.zeros(len(observation["state"]), 6, 2)
        actions[..., 0] = self.stride
        return actions
