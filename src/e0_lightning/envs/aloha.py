"""gym-aloha's tasks as environments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from e0_lightning.envs.aloha_simulation import CAMERA, SUCCESS, TASKS, AlohaSimulation
from e0_lightning.envs.base import EnvObservation, Frame, StepResult
from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraError, CameraOffset
from e0_lightning.geometry import camera_matrix, resize_frames, resize_intrinsics
from e0_lightning.types import PolicySpec

CONTROL_MODE = "joint_position"
"""Absolute joint targets, as in ACT's recordings."""

FIELD_OF_VIEW = 78.0
"""Vertical field of view of the camera in gym-aloha's scene, degrees."""

VIDEO_SIZE = (240, 320)
"""Height and width of recorded videos."""


class AlohaEnvironment:
    """One task of gym-aloha, observed and controlled according to a spec.

    The camera is rendered only for the observations that an actor receives: a step of physics costs
    2 ms, a frame 150 ms in software. An episode succeeds at the first reward of 4, as in ACT, which
    counts episodes by their highest reward.

    Args:
        task: Name of the task.
        spec: Required views and their sizes, state parts, control mode and action dimensions.
        backend: MuJoCo's rendering backend, ``egl`` or ``osmesa``.

    Raises:
        ValueError: If the task does not exist or does not provide what the spec requires.
        ModuleNotFoundError: If gym-aloha is not installed.
    """

    def __init__(self, task: str, spec: PolicySpec, backend: str) -> None:
        check_spec(task, spec)
        self.spec, self.instruction = spec, TASKS[task][1]
        self._simulation = AlohaSimulation(task, backend)

    def reset(self, seed: int, camera: CameraOffset = NO_OFFSET) -> EnvObservation:
        """Start with the objects where gym-aloha places them for this seed.

        Raises:
            CameraError: If the camera is to be displaced.
        """
        if tuple(camera) != NO_OFFSET:
            raise CameraError(
                f"camera_offset: expected no displacement, got {camera}: the camera {CAMERA!r} "
                "looks straight down, so that its azimuth and elevation are not defined."
            )
        self._simulation.reset(seed)
        return self._observe()

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Execute joint targets, ``(n, 14)``, up to the first success."""
        success, steps = False, 0
        for action in actions:
            success = self._simulation.step(action.astype(np.float64)) == SUCCESS
            steps += 1
            if on_frame is not None:
                on_frame(self._simulation.render(*VIDEO_SIZE))
            if success:
                break
        return StepResult(None if success or last else self._observe(), success, steps)

    def close(self) -> None:
        """Free the scene and its rendering context."""
        self._simulation.close()

    def _observe(self) -> EnvObservation:
        images, intrinsics = {}, {}
        for view, size in self.spec.views.items():
            height, width = size.camera_size
            frame = self._simulation.render(height, width)
            images[view] = resize_frames(frame[None], size)[0]
            matrix = camera_matrix(FIELD_OF_VIEW, height, width)
            intrinsics[view] = resize_intrinsics(matrix, (height, width), size)
        state = self._simulation.qpos() if self.spec.state else np.zeros(0)
        return EnvObservation(images, state.astype(np.float32), self.instruction, intrinsics)


def check_spec(task: str, spec: PolicySpec) -> None:
    """Refuse a spec that gym-aloha cannot provide.

    Raises:
        ValueError: If views, state, control mode or action dimensions are not gym-aloha's.
    """
    if spec.action_dim != 14 or spec.control_mode != CONTROL_MODE:
        raise ValueError(
            f"{task}: expected 14 action dimensions in {CONTROL_MODE}, got {spec.action_dim} in "
            f"{spec.control_mode!r} from the actor. Use a policy that was trained on two-armed "
            "demonstrations in ACT's layout."
        )
    if unknown := set(spec.views) - {CAMERA}:
        raise ValueError(
            f"{task}: expected the view {CAMERA}, got {', '.join(sorted(unknown))} from the "
            "actor. Train the policy on this view."
        )
    if spec.state not in ({}, {"qpos": 14}):
        raise ValueError(
            f"{task}: expected the state part qpos (14), or none, got {spec.state} from the "
            "actor. Train the policy on this state part."
        )
