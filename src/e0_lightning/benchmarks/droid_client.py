"""openpi's DROID robot loop on a simulated clock.

The loop is that of ``examples/droid/main.py`` (Physical-Intelligence/openpi). In each iteration the
client reads the cameras, asks the policy for a chunk if the last one has been executed for
`n_action_steps` steps, waits for the response, commands one action and sleeps until 1/15 s have
passed since the iteration began. If they have passed already, the next iteration begins at once:
the action that was late is soon replaced by the next one.

Time is treated as follows.

- The clock of the robot is simulated, in steps of the physics of 1/120 s.
- A response takes as long as the client needs for it in real time, from the resizing of the images
  to the decoded response; injected delays are slept in real time, so that they are part of it. The
  robot's clock advances by this time, rounded to steps of the physics, while the robot holds its
  last target.
- Nothing else takes time: not the rendering of frames, which stands for cameras, and not the
  physics. Slow software rendering does not make the robot late.

A deadline is missed at every control period that begins before the next action is there: a response
after t seconds misses ⌊15 t⌋ deadlines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e0_lightning.envs.base import Frame
from e0_lightning.envs.droid_panda import CONTROL_PERIOD, PHYSICS_STEPS
from e0_lightning.random import derive_seed

IMAGE_SIZE = 224
"""Side of the images that the client sends, pixels."""

Floats = NDArray[np.float32]


class Robot(Protocol):
    """The part of :class:`DroidPanda` that the client uses."""

    @property
    def joint_position(self) -> Floats:
        """``(7,)``, radians."""
        ...

    @property
    def gripper_position(self) -> Floats:
        """``(1,)``, 0 open to 1 closed."""
        ...

    def reset(self, seed: int) -> None:
        """Start the episode of a seed."""
        ...

    def frames(self) -> dict[str, Frame]:
        """View to the current frame of its camera."""
        ...

    def command(self, action: ArrayLike) -> None:
        """Set the targets of joints and gripper."""
        ...

    def advance(self, physics_steps: int) -> bool:
        """Let time pass; returns whether the task is solved."""
        ...


class PolicyClient(Protocol):
    """openpi's client of a policy."""

    def infer(self, obs: dict[str, Any]) -> Mapping[str, Any]:
        """Return ``{"actions": (H, D), …}`` for one observation."""
        ...


@dataclass(frozen=True)
class DroidEpisode:
    """Outcome of an episode.

    Args:
        success: Whether the task was solved at any time.
        steps: Commanded actions.
        seconds: Length on the robot's clock.
        response_seconds: Time to each response.
        missed_deadlines: Control periods that began before the next action was there.
        repeated_frames: Sent frames that were not new.
    """

    success: bool
    steps: int
    seconds: float
    response_seconds: tuple[float, ...]
    missed_deadlines: int
    repeated_frames: int


class LossyCameras:
    """Cameras of which some frames do not arrive; the last one that arrived is sent again.

    Args:
        robot: Robot with the cameras.
        dropped_frames: Probability that a frame of a camera does not arrive.
        seed: Seed of an episode; its first frames arrive.
    """

    def __init__(self, robot: Robot, dropped_frames: float, seed: int) -> None:
        self.robot, self.dropped_frames = robot, dropped_frames
        self.arrived = robot.frames()
        self._generator = np.random.default_rng(derive_seed("dropped frames", seed))

    def read(self) -> set[str]:
        """Update the frames that arrive; returns the views of those that do not."""
        dropped = {view for view in self.arrived if self._generator.random() < self.dropped_frames}
        new = self.robot.frames().items()
        self.arrived |= {view: frame for view, frame in new if view not in dropped}
        return dropped


class DroidClient:
    """Executes chunks of a policy open loop, as openpi's DROID example does.

    Args:
        robot: DROID's robot.
        policy: Client of the policy server.
        instruction: Instruction of the task.
        n_action_steps: Actions of a chunk that are executed.
        dropped_frames: Probability that a frame of a camera does not arrive.
        clock: Real time in seconds.
    """

    def __init__(
        self,
        robot: Robot,
        policy: PolicyClient,
        instruction: str,
        n_action_steps: int = 8,
        dropped_frames: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.robot, self.policy, self.instruction = robot, policy, instruction
        self.n_action_steps, self.dropped_frames, self.clock = n_action_steps, dropped_frames, clock

    def run(self, seed: int, max_steps: int) -> DroidEpisode:
        """Run the episode of a seed until the task is solved, for at most `max_steps` actions.

        Raises:
            ValueError: If a chunk has another shape than DROID's.
        """
        self.robot.reset(seed)
        cameras = LossyCameras(self.robot, self.dropped_frames, seed)
        responses: list[float] = []
        chunk = np.zeros((0, 8), np.float32)
        success, step, time_steps, repeated = False, 0, 0, 0
        while not success and step < max_steps:
            waited = 0
            index = step % self.n_action_steps
            # A frame between two requests matters only if a later one may not arrive.
            dropped = cameras.read() if step and (index == 0 or self.dropped_frames) else set()
            if index == 0:
                repeated += len(dropped)
                start = self.clock()
                chunk = self._infer(cameras.arrived)
                responses.append(self.clock() - start)
                waited = round(responses[-1] / CONTROL_PERIOD * PHYSICS_STEPS)
                success = self.robot.advance(waited)
            self.robot.command(to_command(chunk[index]))
            rest = max(PHYSICS_STEPS - waited, 0)
            success = self.robot.advance(rest) or success
            step, time_steps = step + 1, time_steps + waited + rest
        return DroidEpisode(
            success=success,
            steps=step,
            seconds=time_steps * CONTROL_PERIOD / PHYSICS_STEPS,
            response_seconds=tuple(responses),
            missed_deadlines=sum(map(count_missed_deadlines, responses)),
            repeated_frames=repeated,
        )

    def _infer(self, frames: dict[str, Frame]) -> Floats:
        """Request a chunk, ``(H, 8)``."""
        from openpi_client.image_tools import resize_with_pad

        images = {
            f"observation/{view}": resize_with_pad(frame, IMAGE_SIZE, IMAGE_SIZE)
            for view, frame in frames.items()
        }
        response = self.policy.infer(
            {
                **images,
                "observation/joint_position": self.robot.joint_position,
                "observation/gripper_position": self.robot.gripper_position,
                "prompt": self.instruction,
            }
        )
        chunk: Floats = response["actions"]
        if chunk.ndim != 2 or chunk.shape[0] < self.n_action_steps or chunk.shape[1] != 8:
            raise ValueError(
                f"expected a chunk of at least {self.n_action_steps} actions of 7 joints and "
                f"gripper, got shape {chunk.shape} from the server. Serve a policy that was "
                "trained on DROID's format: e0 serve --checkpoint … --key-map droid."
            )
        return chunk


def count_missed_deadlines(response_seconds: float) -> int:
    """Control periods that begin while the robot waits for a response."""
    return int(response_seconds / CONTROL_PERIOD)


def to_command(action: Floats) -> Floats:
    """An action of a chunk as the robot gets it: gripper open or closed, all within [-1, 1]."""
    return np.clip(np.append(action[:7], np.float32(action[7] > 0.5)), -1, 1)
