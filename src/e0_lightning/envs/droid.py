"""ManiSkill tasks as environments that DROID's robot acts in; see :mod:`.droid_panda`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.base import EnvObservation, Frame, StepResult
from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraError, CameraOffset
from e0_lightning.envs.droid_panda import CAMERAS, DroidPanda
from e0_lightning.envs.maniskill import check_task
from e0_lightning.geometry import resize_frames
from e0_lightning.types import PolicySpec

CONTROL_MODE = "joint_velocity"
STATE = {"joint_position": 7, "gripper_position": 1}
"""State parts of DROID and their dimensions."""


class DroidEnvironment:
    """One ManiSkill task, observed and controlled as DROID's robot according to a spec.

    No time passes between an observation and its actions: the robot waits for the policy.

    Args:
        task: ManiSkill's name of the task.
        spec: Required views and their sizes, state parts, control mode and action dimensions.
        instructions: Task to instruction.

    Raises:
        ValueError: If the task does not exist or the spec is not DROID's.
    """

    def __init__(
        self, task: str, spec: PolicySpec, instructions: Mapping[str, str] = INSTRUCTIONS
    ) -> None:
        check_task(task, instructions)
        check_spec(task, spec)
        self.spec, self.instruction = spec, instructions[task]
        self._panda = DroidPanda(task, list(spec.views))

    def reset(self, seed: int, camera: CameraOffset = NO_OFFSET) -> EnvObservation:
        """Start the episode of a seed.

        Raises:
            CameraError: If the cameras are to be displaced.
        """
        if tuple(camera) != NO_OFFSET:
            raise CameraError(
                f"camera_offset: expected no displacement, got {camera}. Displaced cameras are "
                "evaluated with ManiSkillEpisodes."
            )
        self._panda.reset(seed)
        return self._observe()

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Execute actions, ``(n, 8)``, up to the first success."""
        success, steps = False, 0
        for action in actions:
            self._panda.command(action)
            success, steps = self._panda.advance(), steps + 1
            if on_frame is not None:
                on_frame(self._panda.simulation.render()[0].cpu().numpy())
            if success:
                break
        return StepResult(None if success or last else self._observe(), success, steps)

    def close(self) -> None:
        """Free the scene."""
        self._panda.close()

    def _observe(self) -> EnvObservation:
        frames = self._panda.frames()
        images = {
            view: resize_frames(frames[view][None], size)[0]
            for view, size in self.spec.views.items()
        }
        parts = {name: getattr(self._panda, name) for name in self.spec.state}
        state = np.concatenate([np.zeros(0, np.float32), *parts.values()])
        return EnvObservation(images, state, self.instruction, {})


def check_spec(task: str, spec: PolicySpec) -> None:
    """Refuse a spec that is not DROID's.

    Raises:
        ValueError: If views, state, control mode or action dimensions are not DROID's.
    """
    if spec.action_dim != 8 or spec.control_mode != CONTROL_MODE:
        raise ValueError(
            f"{task}: expected 8 action dimensions in {CONTROL_MODE}, got {spec.action_dim} in "
            f"{spec.control_mode!r} from the actor. Use a policy that was trained on DROID's "
            "format (`e0 collect droid`)."
        )
    if unknown := set(spec.views) - set(CAMERAS):
        raise ValueError(
            f"{task}: expected views among {', '.join(CAMERAS)}, got {', '.join(sorted(unknown))} "
            "from the actor. Train the policy on these views."
        )
    if any(STATE.get(part) != dims for part, dims in spec.state.items()):
        raise ValueError(
            f"{task}: expected state parts among {STATE}, got {spec.state} from the actor. Train "
            "the policy on these state parts."
        )
