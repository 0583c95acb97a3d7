"""What a world must offer so that an actor can be tried in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from e0_lightning.simulation.camera import STILL, Offset
from e0_lightning.types import Contract

Frame = NDArray[np.uint8]
"""An RGB picture, ``(height, width, 3)``."""


@dataclass(frozen=True)
class Episode:
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
    camera: Offset = STILL


@dataclass(frozen=True)
class View:
    """What one environment shows at one moment.

    Args:
        images: View name to ``(S, S, 3)`` uint8 RGB, upright.
        state: ``(Q,)`` float32, the parts of the contract side by side.
        instruction: What the robot is asked to do.
        intrinsics: View name to ``(3, 3)`` camera matrix in pixels, where known.
    """

    images: dict[str, Frame]
    state: NDArray[np.float32]
    instruction: str
    intrinsics: dict[str, NDArray[np.float32]]


class Outcome(NamedTuple):
    """What came of some actions."""

    view: View | None
    """What the environment shows now; None once the episode is over: no one will look."""
    success: bool
    """The simulator's own flag, at any of the steps."""
    steps: int
    """How many of the actions were carried out: fewer than given after a success."""


class Environment(Protocol):
    """A world of one task, living in a worker process."""

    def reset(self, seed: int, camera: Offset) -> View:
        """Start an episode, with the fixed cameras moved around what they look at.

        Raises:
            ValueError: If there is no such seed.
            CameraError: If a camera cannot be moved so.
        """
        ...

    def run(
        self, actions: NDArray[np.float32], last: bool, watch: Callable[[Frame], None] | None
    ) -> Outcome:
        """Carry out actions one after another, up to the first success.

        Args:
            actions: ``(n, D)``, robot units.
            last: Whether the episode ends with them, so that no view is needed.
            watch: Given a picture for people after every step.
        """
        ...

    def close(self) -> None:
        """Free what the world holds."""
        ...


MakeEnvironment = Callable[[str, Contract], Environment]
"""Builds the environment of a task for an actor's contract, and raises `ValueError` where the task
cannot give what the contract asks for. Importable, for it is sent to worker processes."""
