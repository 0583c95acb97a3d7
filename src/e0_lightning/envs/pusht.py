"""gym-pusht's PushT as an environment."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.pusht import (
    CONTROL_MODE,
    INSTRUCTION,
    STATE,
    VIEW,
    block_keypoints,
)
from e0_lightning.envs.base import EnvObservation, Frame, StepResult, require_opencv
from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraError, CameraOffset
from e0_lightning.geometry import resize_frames
from e0_lightning.types import PolicySpec, ViewSize

TASK = "PushT-v0"

MAX_STEPS = 300
"""Maximum episode length of Diffusion Policy and lerobot."""

DEFAULT_SIZE = ViewSize(96, 96)
"""Size of the published demonstrations' frames."""

VIDEO_SIZE = 384
"""Side of video frames, pixels."""


class PushTEnvironment:
    """PushT, observed and controlled according to a spec.

    The score of an episode is the largest share of the target that the block has covered, divided
    by the 95 % of a success, at most 1.

    Args:
        task: Always `TASK`.
        spec: Required view and its size, state parts, control mode and action dimensions.

    Raises:
        ValueError: If there is no such task, or PushT does not provide what the spec requires.
        ModuleNotFoundError: If gym-pusht is not installed.
        RuntimeError: If it lacks a library of the system.
    """

    def __init__(self, task: str, spec: PolicySpec) -> None:
        if task != TASK:
            raise ValueError(f"task: expected {TASK}, got {task!r}.")
        _check_spec(spec)
        check_installed()
        from gym_pusht.envs import PushTEnv

        self.spec = spec
        height, width = spec.views.get(VIEW, DEFAULT_SIZE).camera_size
        self._env: Any = PushTEnv(
            observation_height=height,
            observation_width=width,
            visualization_height=VIDEO_SIZE,
            visualization_width=VIDEO_SIZE,
        )
        self._score = 0.0

    def reset(self, seed: int, camera: CameraOffset = NO_OFFSET) -> EnvObservation:
        """Start the episode of a seed.

        Raises:
            CameraError: If a camera is to be displaced.
        """
        if tuple(camera) != NO_OFFSET:
            raise CameraError("PushT is a drawing without a camera. Leave out camera_offset.")
        self._env.reset(seed=seed)
        self._score = 0.0
        return self._observe()

    def reset_to(self, agent_pos: Sequence[float], block_pose: Sequence[float]) -> EnvObservation:
        """Start an episode in a recorded state; recorded actions then reproduce the recording.

        Args:
            agent_pos: Position of the disc, pixels.
            block_pose: Position of the block, pixels, and its angle, radians.
        """
        self._env.reset(seed=0)
        self._score = 0.0
        x, y, angle = map(float, block_pose)
        agent, block = self._env.agent, self._env.block
        agent.position = tuple(map(float, agent_pos))
        # First: the block turns about its centre of gravity, which moves its position.
        block.angle = angle
        block.position = x, y
        for body in (agent, block):
            self._env.space.reindex_shapes_for_body(body)
        return self._observe()

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Execute actions, ``(n, 2)``, up to the first success."""
        success, steps = False, 0
        for action in actions:
            _, score, success, _, _ = self._env.step(action.astype(np.float64))
            self._score, steps = max(self._score, float(score)), steps + 1
            if on_frame is not None:
                on_frame(self._env.render())
            if success:
                break
        observation = None if success or last else self._observe()
        return StepResult(observation, bool(success), steps, self._score)

    def close(self) -> None:
        """Free the resources of gym-pusht."""
        self._env.close()

    def _observe(self) -> EnvObservation:
        block = self._env.block
        # Within [0, 2π), as recorded.
        pose = np.array([*block.position, block.angle % (2 * np.pi)])
        parts = {
            "agent_pos": np.array(self._env.agent.position),
            "block_pose": pose,
            "block_keypoints": block_keypoints(pose[None])[0],
        }
        state = [np.zeros(0), *(parts[name] for name in self.spec.state)]
        images = {
            view: resize_frames(self._env._render()[None], size)[0]
            for view, size in self.spec.views.items()
        }
        return EnvObservation(images, np.concatenate(state).astype(np.float32), INSTRUCTION, {})


def check_installed() -> None:
    """Refuse to start without gym-pusht or a library that it needs.

    Raises:
        ModuleNotFoundError: If it is not installed.
        RuntimeError: If it lacks a library of the system.
    """
    require_opencv()
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import gym_pusht  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"PushT needs gym-pusht, and {error.name} is not installed: "
            "pip install 'e0-lightning[pusht]'"
        ) from error


def versions() -> dict[str, str]:
    """Versions of simulator and physics."""
    packages = ("gym-pusht", "pymunk", "gymnasium", "numpy")
    return {name: importlib.metadata.version(name) for name in packages}


def _check_spec(spec: PolicySpec) -> None:
    """Refuse a spec that PushT does not provide."""
    for name, expected, got in (
        ("control mode", CONTROL_MODE, spec.control_mode),
        ("number of action dimensions", 2, spec.action_dim),
        ("views", [VIEW] if spec.views else [], list(spec.views)),
        ("state parts", {part: STATE.get(part) for part in spec.state}, spec.state),
    ):
        if got != expected:
            raise ValueError(
                f"{TASK}: expected the {name} {expected}, got {got} from the actor. Use a policy "
                "that was trained on demonstrations of PushT."
            )
