"""Interface of simulated environments, and the episodes that are evaluated in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset
from e0_lightning.types import PolicySpec

Frame = NDArray[np.uint8]
"""An RGB image, ``(height, width, 3)``."""

OPENCV_ADVICE = """OpenCV, which the simulators import, cannot be loaded: {error}.
As root: apt-get install -y libgl1 libglib2.0-0
(other systems: the packages with libGL.so.1 and libgthread-2.0.so.0)."""


@dataclass(frozen=True)
class EvalEpisode:
    """One evaluation episode.

    Args:
        task: Task name.
        seed: Seed or index of the initial state.
        max_steps: Steps after which the episode is a failure.
        video: File to record, ``.mp4``; the outcome is appended to its name. None records nothing.
        camera: Displacement of the fixed cameras: azimuth and elevation in degrees, relative
            change of the distance.
        instruction: Sentence that the policy is given instead of the task's own; None for its own.
    """

    task: str
    seed: int
    max_steps: int
    video: str | None = None
    camera: CameraOffset = NO_OFFSET
    instruction: str | None = None


@dataclass(frozen=True)
class EnvObservation:
    """Observation of one environment.

    Args:
        images: View name to ``(h, w, 3)`` uint8 RGB, upright, in the sizes of the spec.
        state: ``(Q,)`` float32, the state parts of the spec concatenated.
        instruction: Instruction of the task.
        intrinsics: View name to ``(3, 3)`` camera matrix in pixels, where known.
        history: Observations before this one, oldest first; rollouts add them.
    """

    images: dict[str, Frame]
    state: NDArray[np.float32]
    instruction: str
    intrinsics: dict[str, NDArray[np.float32]]
    history: tuple[EnvObservation, ...] = ()


class StepResult(NamedTuple):
    """Result of executing some actions."""

    observation: EnvObservation | None
    """The new observation; None after the last step of an episode, where nothing is rendered."""
    success: bool
    """The simulator's success flag, at any of the steps."""
    steps: int
    """Number of executed actions: fewer than given after a success."""
    score: float | None = None
    """The score of the episode so far, from 0 to 1; None where the task has none."""
    flags: Mapping[str, bool] = MappingProxyType({})
    """Further flags of the simulator after the last of the steps, by name."""


class Environment(Protocol):
    """The environment of one task, in a worker process."""

    def reset(self, seed: int, camera: CameraOffset) -> EnvObservation:
        """Start an episode with the fixed cameras displaced around their look-at point.

        Raises:
            ValueError: If the seed does not exist.
            CameraError: If a camera cannot be displaced in this way.
        """
        ...

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Execute actions one after another, up to the first success.

        Args:
            actions: ``(n, D)``, robot units.
            last: Whether the episode ends with them, so that no observation is rendered.
            on_frame: Called with a rendered video frame after every step.
        """
        ...

    def close(self) -> None:
        """Free the resources of the simulator."""
        ...


MakeEnvironment = Callable[[str, PolicySpec], Environment]
"""Builds the environment of a task for the spec of an actor; raises `ValueError` where the task
does not provide what the spec requires. Must be importable, because it is pickled to worker
processes."""


class EnvironmentBatch(Protocol):
    """The n environments of one task that a simulator steps together, in the actor's process."""

    def reset(self, seeds: Sequence[int]) -> list[EnvObservation]:
        """Start an episode in each environment."""
        ...

    def run(
        self,
        actions: NDArray[np.float32],
        last: bool,
        on_frames: Sequence[Callable[[Frame], None] | None],
    ) -> list[StepResult]:
        """Execute actions, ``(n, m, D)``; arguments and results as those of `Environment.run`."""
        ...

    def close(self) -> None:
        """Free the resources of the simulator."""
        ...


MakeEnvironmentBatch = Callable[[str, PolicySpec, int], EnvironmentBatch]
"""Builds n environments of a task for the spec of an actor; raises as `MakeEnvironment`."""


def require_opencv() -> None:
    """Check that OpenCV can be loaded, before a simulator imports it.

    Where OpenCV is not installed nothing is checked: the simulators, which depend on it, are not
    installed either.

    Raises:
        RuntimeError: If a system library is missing, with the packages to install.
    """
    try:
        import cv2  # noqa: F401
    except ModuleNotFoundError:
        return
    except ImportError as error:
        raise RuntimeError(OPENCV_ADVICE.format(error=error)) from error
