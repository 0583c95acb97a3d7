"""ManiSkill tasks as environments."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.base import EnvObservation, Frame, StepResult, require_opencv
from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset, look_at_point, orbit
from e0_lightning.envs.maniskill_stages import Stages
from e0_lightning.envs.vulkan import backend, device
from e0_lightning.geometry import resize_frames, resize_intrinsics
from e0_lightning.types import PolicySpec

MAX_STEPS = {
    "PushCube-v1": 100,
    "PickCube-v1": 100,
    "StackCube-v1": 200,
    "PlugCharger-v1": 200,
    "PegInsertionSide-v1": 300,
    "Detour-v1": 100,
}
"""Maximum episode lengths, those of ManiSkill's diffusion policy baselines. Its registered ones
(50 steps) are shorter than the planner's demonstrations, so a cloned policy could not finish."""

DEFAULT_MAX_STEPS = 200
"""Maximum episode length of all other tasks."""

RECONFIGURATION_FREQ = 1
"""Every reset builds the scene anew, half a second: PhysX otherwise keeps contacts of the episode
before, and the outcome of an episode depends on it."""


class ManiSkillEnvironment:
    """One ManiSkill task on the CPU, observed and controlled according to a spec.

    Cameras are rendered only for the observations that an actor receives: a step of physics costs
    about 1 ms, a camera 25-50 ms in software.

    Args:
        task: ManiSkill's name of the task.
        spec: Required views and their sizes, state parts, control mode and action dimensions.
        instructions: Task to instruction.

    Raises:
        ValueError: If the task does not exist or does not provide what the spec requires.
    """

    def __init__(
        self, task: str, spec: PolicySpec, instructions: Mapping[str, str] = INSTRUCTIONS
    ) -> None:
        check_task(task, instructions)
        logging.getLogger("mani_skill ").setLevel(logging.ERROR)
        self.task, self.spec = task, spec
        self.instruction = instructions[task]
        self._env = _make(task, spec)
        self._base = self._env.unwrapped
        self._obs_mode = self._base.obs_mode
        self._stages = Stages(task, self._base)
        try:
            self._check_spec()
        except ValueError:
            self.close()
            raise

    def reset(self, seed: int, camera: CameraOffset = NO_OFFSET) -> EnvObservation:
        """Start the episode of a seed, with the fixed cameras displaced."""
        self._base._obs_mode = "none"
        self._env.reset(seed=seed)
        for name in self.spec.views:
            _move_camera(self._base._sensors[name], camera)
        self._stages.reset()
        return self._observe()

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Execute actions, ``(n, D)``, up to the first success.

        The flags of the result are the other booleans of the task's evaluation, and its stages.
        """
        # Without an observation mode the inner steps render nothing.
        self._base._obs_mode = "none"
        flags: dict[str, bool] = {}
        success, steps = False, 0
        for action in actions:
            flags = {**_flags(self._env.step(action)[-1]), **self._stages.update()}
            success, steps = flags.pop("success"), steps + 1
            if on_frame is not None:
                on_frame(self._env.render()[0].cpu().numpy())
            if success:
                break
        observation = None if success or last else self._observe()
        return StepResult(observation, success, steps, flags=flags)

    def close(self) -> None:
        """Free the scene."""
        self._env.close()

    def _get_obs(self) -> dict[str, Any]:
        """ManiSkill's observation, with only the cameras of the spec rendered."""
        # A reset that rebuilds the scene restores the other cameras.
        for name in set(self._base._sensors) - set(self.spec.views):
            del self._base._sensors[name]
        self._base._obs_mode = self._obs_mode
        return dict(self._base.get_obs())

    def _observe(self) -> EnvObservation:
        observation = self._get_obs()
        images, intrinsics = {}, {}
        for name, size in self.spec.views.items():
            images[name] = resize_frames(_frames(observation, name), size)[0]
            matrix = observation["sensor_param"][name]["intrinsic_cv"].reshape(3, 3).cpu().numpy()
            intrinsics[name] = resize_intrinsics(matrix, size.camera_size, size)
        parts = _state_parts(observation)
        state = [parts[name] for name in self.spec.state]
        concatenated = np.concatenate([np.zeros(0), *state]).astype(np.float32)
        return EnvObservation(images, concatenated, self.instruction, intrinsics)

    def _check_spec(self) -> None:
        """Compare one observation and the action space with the spec."""
        actions = self._env.action_space.shape[-1]
        if actions != self.spec.action_dim:
            raise ValueError(
                f"{self.task}: expected actions of {actions} dimensions in "
                f"{self.spec.control_mode}, got {self.spec.action_dim} from the actor. Use a "
                "policy that was trained on demonstrations in this control mode."
            )
        _check_views(self.task, self.spec, list(self._base._sensors))
        observation = self._get_obs()
        for view, size in self.spec.views.items():
            expected, rendered = size.camera_size, _frames(observation, view).shape[1:3]
            if rendered != expected:
                raise ValueError(
                    f"{self.task}: expected {view} of {expected[0]} by {expected[1]} pixels for "
                    f"the actor, got {rendered[0]} by {rendered[1]} from the simulator."
                )
        parts = {name: len(values) for name, values in _state_parts(observation).items()}
        for part, dims in self.spec.state.items():
            if part not in parts:
                raise ValueError(
                    f"{self.task}: expected state parts among {', '.join(parts)}, got {part!r} "
                    "from the actor. Train the policy on state parts of this task."
                )
            if parts[part] != dims:
                raise ValueError(
                    f"{self.task}: expected {dims} dimensions of state part {part} for the actor, "
                    f"got {parts[part]} from the simulator."
                )


def check_task(task: str, instructions: Mapping[str, str]) -> None:
    """Refuse a task that ManiSkill does not have, or that has no instruction.

    Raises:
        ModuleNotFoundError: If ManiSkill is not installed.
        RuntimeError: If it lacks a library of the system.
        ValueError: If the task does not exist, or has no instruction.
    """
    require_opencv()
    try:
        import mani_skill.envs  # noqa: F401  (registers the tasks)
        from mani_skill.utils.registration import REGISTERED_ENVS

        import e0_lightning.envs.detour  # noqa: F401  (registers its task)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ManiSkill is not installed ({error}): pip install 'e0-lightning[maniskill]'"
        ) from error
    if task not in REGISTERED_ENVS:
        close = difflib.get_close_matches(task, REGISTERED_ENVS, n=3, cutoff=0.5)
        raise ValueError(
            f"expected a task of ManiSkill, got {task!r}; "
            + (f"did you mean {' or '.join(close)}?" if close else "see its list of tasks.")
        )
    if task not in instructions:
        raise ValueError(
            f"expected an instruction for {task}, got none. Give it with the name of the task, "
            f"tasks: {{{task}: <instruction>}}. Tasks with an instruction: "
            f"{', '.join(instructions)}."
        )


def _make(task: str, spec: PolicySpec) -> Any:
    import gymnasium

    try:
        return gymnasium.make(
            task,
            # Without views no camera is rendered, as in demonstrations without images.
            obs_mode="rgb" if spec.views else "state_dict",
            control_mode=spec.control_mode,
            render_mode="rgb_array",
            sensor_configs=_cameras(spec),
            sim_backend="physx_cpu",
            render_backend=backend(),
            reconfiguration_freq=RECONFIGURATION_FREQ,
        )
    except (AssertionError, AttributeError):
        # Most likely an unknown control mode or camera: list those of a plain environment.
        plain: Any = gymnasium.make(task, obs_mode="none", sim_backend="physx_cpu")
        modes, cameras = plain.unwrapped.agent.supported_control_modes, plain.unwrapped._sensors
        plain.close()
        if spec.control_mode not in modes:
            raise ValueError(
                f"{task}: expected a control mode among {', '.join(modes)}, got "
                f"{spec.control_mode!r} from the actor. Use a policy that was trained on "
                "demonstrations in one of these."
            ) from None
        _check_views(task, spec, list(cameras))
        raise


def _check_views(task: str, spec: PolicySpec, cameras: list[str]) -> None:
    for view in spec.views:
        if view not in cameras:
            raise ValueError(
                f"{task}: expected views among the cameras {', '.join(cameras)}, got {view!r} from "
                "the actor. Train the policy on views of this task."
            )


def versions() -> dict[str, str]:
    """Versions of simulator and renderer, and the rendering device."""
    packages = ("mani_skill", "sapien", "gymnasium", "numpy")
    return {**{name: importlib.metadata.version(name) for name in packages}, "renderer": device()}


def _move_camera(sensor: Any, offset: CameraOffset) -> None:
    """Displace a fixed camera from its original pose around its look-at point on the table."""
    if sensor.entity is not None:
        return  # mounted on the robot
    import sapien

    pose = sensor.config.pose.sp
    if tuple(offset) != NO_OFFSET:
        matrix = pose.to_transformation_matrix().astype(np.float64)
        # The tops of ManiSkill's tables lie at height 0; its cameras point along x.
        target = look_at_point(matrix[:3, 3], matrix[:3, 0], 0.0)
        pose = sapien.Pose(orbit(matrix, target, offset).astype(np.float32))
    sensor.camera.set_local_pose(pose)


def _cameras(spec: PolicySpec) -> dict[str, Any]:
    """``sensor_configs`` with the sizes of the recorded frames."""
    sizes: dict[str, Any] = {
        name: dict(zip(("height", "width"), size.camera_size, strict=True))
        for name, size in spec.views.items()
    }
    # ManiSkill fails on a camera that does not exist; a common size needs no names.
    if len({size.camera_size for size in spec.views.values()}) == 1:
        sizes = next(iter(sizes.values()))
    # The shader of the recorded demonstrations; that of ManiSkill's environments differs by one
    # grey level in half of the pixels.
    return {"shader_pack": "default", **sizes}


def _frames(observation: dict[str, Any], view: str) -> NDArray[np.uint8]:
    """The rendered frame of a view, ``(1, height, width, 3)``."""
    frames: NDArray[np.uint8] = observation["sensor_data"][view]["rgb"].cpu().numpy()
    return frames


def _flags(info: dict[str, Any]) -> dict[str, bool]:
    """The booleans of an evaluation."""
    return {
        name: bool(value.item())
        for name, value in info.items()
        if getattr(value, "dtype", None) == torch.bool and value.numel() == 1
    }


def _state_parts(observation: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Every state part as a vector; the agent's parts override the task's of the same name."""
    parts = {}
    for group in ("extra", "agent"):
        for name, value in observation[group].items():
            if not isinstance(value, dict):
                parts[name] = value.reshape(-1).cpu().numpy().astype(np.float32)
    return parts
