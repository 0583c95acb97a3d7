"""What a world must offer so that an actor can be tried in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset
from e0_lightning.types import PolicySpec

Frame = NDArray[np.uint8]
"""An RGB picture, ``(height, width, 3)``."""


@dataclass(frozen=True)
class EvalEpisode:
    """One attempt at a task.

    Args:
        task: Name of the task.
        seed: Seed or initial state to start from.
        max_steps: Steps after which the attempt has failed.
        video: File to write a video to, ``.mp4``, without the outcome that is added to its name.
        camera: Displacement of the fixed cameras: azimuth and elevation in degrees, share of the
            distance added.
    """

    task: str
    seed: int
    max_steps: int
    video: str | None = None
    camera: CameraOffset = NO_OFFSET


@dataclass(frozen=True)
class EnvObservation:
    """What one environment shows at one moment.

    Args:
        images: EnvObservation name to ``(S, S, 3)`` uint8 RGB, upright.
        state: ``(Q,)`` float32, the parts of the spec side by side.
        instruction: What the robot is asked to do.
        intrinsics: EnvObservation name to ``(3, 3)`` camera matrix in pixels, where known.
    """

    images: dict[str, Frame]
    state: NDArray[np.float32]
    instruction: str
    intrinsics: dict[str, NDArray[np.float32]]


class StepResult(NamedTuple):
    """What came of some actions."""

    view: EnvObservation | None
    """What the environment shows now; None once the episode is over: no one will look."""
    success: bool
    """The simulator's own flag, at any of the steps."""
    steps: int
    """How many of the actions were carried out: fewer than given after a success."""


class Environment(Protocol):
    """A world of one task, living in a worker process."""

    def reset(self, seed: int, camera: CameraOffset) -> EnvObservation:
        """Start an episode, with the fixed cameras moved around what they look at.

        Raises:
            ValueError: If there is no such seed.
            CameraError: If a camera cannot be moved so.
        """
        ...

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Carry out actions one after another, up to the first success.

        Args:
            actions: ``(n, D)``, robot units.
            last: Whether the episode ends with them, so that no view is needed.
            on_frame: Given a picture for people after every step.
        """
        ...

    def close(self) -> None:
        """Free what the world holds."""
        ...


MakeEnvironment = Callable[[str, PolicySpec], Environment]
"""Builds the environment of a task for an actor's spec, and raises `ValueError` where the task
cannot give what the spec asks for. Importable, for it is sent to worker processes."""
