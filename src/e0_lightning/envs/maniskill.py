"""ManiSkill tasks as environments for an actor."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.base import EnvObservation, Frame, StepResult
from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset, look_at_point, orbit
from e0_lightning.envs.libraries import require_libraries
from e0_lightning.envs.vulkan import backend, device
from e0_lightning.types import PolicySpec

MAX_STEPS = {
    "PushCube-v1": 100,
    "PickCube-v1": 100,
    "StackCube-v1": 200,
    "PlugCharger-v1": 200,
    "PegInsertionSide-v1": 300,
}
"""EvalEpisode caps. ManiSkill's own (50 steps) lie below the length of planner demonstrations, which
a cloned policy repeats; these are the ones of ManiSkill's diffusion policy baselines."""

DEFAULT_MAX_STEPS = 200
"""EvalEpisode cap of the tasks that are not in the table."""


class ManiSkillEnvironment:
    """One ManiSkill task on the CPU, shown and controlled as a spec says.

    Pictures are drawn only when someone looks: a step of physics costs about 1 ms, a camera
    25-50 ms in software.

    Args:
        task: ManiSkill's name of the task.
        spec: Views and their sides, state parts, control mode and action dimensions wanted.
        instructions: Task to sentence.

    Raises:
        ValueError: If there is no such task, or it cannot keep the spec.
    """

    def __init__(
        self, task: str, spec: PolicySpec, instructions: Mapping[str, str] = INSTRUCTIONS
    ) -> None:
        require_task(task, instructions)
        logging.getLogger("mani_skill ").setLevel(logging.ERROR)
        self.task, self.spec = task, spec
        self.instruction = instructions[task]
        self._env = _make(task, spec)
        self._world = self._env.unwrapped
        self._look = self._world.obs_mode
        try:
            self._require_spec()
        except ValueError:
            self.close()
            raise

    def reset(self, seed: int, camera: CameraOffset = NO_OFFSET) -> EnvObservation:
        """Start the episode of a seed, the cameras that stand still moved as asked."""
        self._world._obs_mode = "none"
        self._env.reset(seed=seed)
        for name in self.spec.views:
            _move(self._world._sensors[name], camera)
        return self._view()

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Carry out actions, ``(n, D)``, up to the first success."""
        # Without an observation mode the inner steps draw nothing.
        self._world._obs_mode = "none"
        success, steps = False, 0
        for action in actions:
            info = self._env.step(action)[-1]
            success, steps = bool(info["success"].item()), steps + 1
            if on_frame is not None:
                on_frame(self._env.render()[0].cpu().numpy())
            if success:
                break
        return StepResult(None if success or last else self._view(), success, steps)

    def close(self) -> None:
        """Free the scene."""
        self._env.close()

    def _observe(self) -> dict[str, Any]:
        """What ManiSkill shows, drawn for the wanted cameras alone."""
        # A reset that rebuilds the scene brings the other cameras back.
        for name in set(self._world._sensors) - set(self.spec.views):
            del self._world._sensors[name]
        self._world._obs_mode = self._look
        return dict(self._world.get_obs())

    def _view(self) -> EnvObservation:
        observation = self._observe()
        images, intrinsics = {}, {}
        for name in self.spec.views:
            images[name] = observation["sensor_data"][name]["rgb"][0].cpu().numpy()
            matrix = observation["sensor_param"][name]["intrinsic_cv"]
            intrinsics[name] = matrix.reshape(3, 3).cpu().numpy().astype(np.float32)
        parts = _parts(observation)
        state = [parts[name] for name in self.spec.state]
        laid = np.concatenate([np.zeros(0), *state]).astype(np.float32)
        return EnvObservation(images, laid, self.instruction, intrinsics)

    def _require_spec(self) -> None:
        """Look once at everything that the spec names."""
        actions = self._env.action_space.shape[-1]
        if actions != self.spec.action_dim:
            raise ValueError(
                f"{self.task} in {self.spec.control_mode} takes actions of {actions} "
                f"dimensions, the actor gives {self.spec.action_dim}"
            )
        _require_views(self.task, self.spec, list(self._world._sensors))
        observation = self._observe()
        for view, side in self.spec.views.items():
            height, width = observation["sensor_data"][view]["rgb"].shape[1:3]
            if (height, width) != (side, side):
                raise ValueError(
                    f"{self.task} draws {view} with {height} by {width} pixels, the actor wants "
                    f"{side} by {side}"
                )
        parts = {name: len(values) for name, values in _parts(observation).items()}
        for part, size in self.spec.state.items():
            if part not in parts:
                raise ValueError(
                    f"{self.task} has no state part {part!r}, which the actor wants; "
                    f"it has {', '.join(parts)}"
                )
            if parts[part] != size:
                raise ValueError(
                    f"{self.task} gives state part {part} with {parts[part]} dimensions, the "
                    f"actor wants {size}"
                )


def require_task(task: str, instructions: Mapping[str, str]) -> None:
    """Refuse a task that ManiSkill does not have, or that no one can say in words.

    Raises:
        ModuleNotFoundError: If ManiSkill is not installed.
        RuntimeError: If it lacks a library of the system.
        ValueError: If there is no such task, or no sentence for it.
    """
    require_libraries()
    try:
        import mani_skill.envs  # noqa: F401  (registers the tasks)
        from mani_skill.utils.registration import REGISTERED_ENVS
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ManiSkill is not installed ({error}): pip install 'e0-lightning[maniskill]'"
        ) from error
    if task not in REGISTERED_ENVS:
        close = difflib.get_close_matches(task, REGISTERED_ENVS, n=3, cutoff=0.5)
        raise ValueError(
            f"ManiSkill has no task {task!r}; "
            + (f"did you mean {' or '.join(close)}?" if close else "see its list of tasks.")
        )
    if task not in instructions:
        raise ValueError(
            f"no instruction is known for {task}; give one with its name, "
            f"tasks: {{{task}: <sentence>}}. Known without: {', '.join(instructions)}"
        )


def _make(task: str, spec: PolicySpec) -> Any:
    import gymnasium

    try:
        return gymnasium.make(
            task,
            obs_mode="rgb",
            control_mode=spec.control_mode,
            render_mode="rgb_array",
            sensor_configs=_cameras(spec),
            sim_backend="physx_cpu",
            render_backend=backend(),
        )
    except (AssertionError, AttributeError):
        # An unknown controller or camera, most likely: ask a bare environment what there is.
        bare: Any = gymnasium.make(task, obs_mode="none", sim_backend="physx_cpu")
        modes, cameras = bare.unwrapped.agent.supported_control_modes, bare.unwrapped._sensors
        bare.close()
        if spec.control_mode not in modes:
            raise ValueError(
                f"{task}: its robot has no control mode {spec.control_mode!r}, which the "
                f"actor wants; it has {', '.join(modes)}"
            ) from None
        _require_views(task, spec, list(cameras))
        raise


def _require_views(task: str, spec: PolicySpec, cameras: list[str]) -> None:
    for view in spec.views:
        if view not in cameras:
            raise ValueError(
                f"{task} has no camera {view!r}, which the actor wants; it has {', '.join(cameras)}"
            )


def versions() -> dict[str, str]:
    """Versions of simulator and renderer, and the device that draws."""
    packages = ("mani_skill", "sapien", "gymnasium", "numpy")
    return {**{name: importlib.metadata.version(name) for name in packages}, "renderer": device()}


def _move(sensor: Any, offset: CameraOffset) -> None:
    """Move a camera around the point of the table that it looks at, from where the task put it."""
    if sensor.entity is not None:
        return  # it moves with the robot
    import sapien

    placed = sensor.config.pose.sp
    if tuple(offset) != NO_OFFSET:
        pose = placed.to_transformation_matrix().astype(np.float64)
        # The tops of ManiSkill's tables lie at height 0; its cameras look along x.
        target = look_at_point(pose[:3, 3], pose[:3, 0], 0.0)
        placed = sapien.Pose(orbit(pose, target, offset).astype(np.float32))
    sensor.camera.set_local_pose(placed)


def _cameras(spec: PolicySpec) -> dict[str, Any]:
    """``sensor_configs`` that give every wanted camera its side."""
    # A camera named here must exist, or ManiSkill stops; one size for all needs no names.
    sides = set(spec.views.values())
    sizes: dict[str, Any]
    if len(sides) == 1:
        side = sides.pop()
        sizes = {"width": side, "height": side}
    else:
        sizes = {name: {"width": side, "height": side} for name, side in spec.views.items()}
    # The shader that demonstrations are recorded with; ManiSkill's own default differs by one
    # grey level in half of the pixels.
    return {"shader_pack": "default", **sizes}


def _parts(observation: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Every state part as a vector: the agent's before the task's, flags as one dimension."""
    parts = {}
    for place in ("extra", "agent"):
        for name, value in observation[place].items():
            if not isinstance(value, dict):
                parts[name] = value.reshape(-1).cpu().numpy().astype(np.float32)
    return parts
