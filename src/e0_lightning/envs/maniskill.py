"""ManiSkill tasks as environments."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.base import EnvObservation, Frame, StepResult, require_opencv
from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset, look_at_point, orbit
from e0_lightning.envs.maniskill_meshes import simplify_robot
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
    "PrecisePick-v1": 200,
}
"""Maximum episode lengths; for ManiSkill's own tasks those of its diffusion policy baselines. The
registered ones (50 steps) are shorter than the planner's demonstrations, so that a cloned policy
could not finish."""

DEFAULT_MAX_STEPS = 200
"""Maximum episode length of all other tasks."""

RECONFIGURATION_FREQ = 1
"""Every reset builds the scene anew, half a second: PhysX otherwise keeps contacts of the episode
before, and the outcome of an episode depends on it."""


class ManiSkillBatch:
    """Scenes of one ManiSkill task, stepped together, observed and controlled by a spec.

    ManiSkill simulates many scenes at once on a CUDA card, one on the CPU. Cameras are rendered
    only for the observations that an actor receives: on the CPU a step of physics costs about 1 ms,
    a camera 25-50 ms.

    Args:
        task: ManiSkill's name of the task.
        spec: Required views and their sizes, state parts, control mode and action dimensions.
        num_envs: Number n of scenes.
        sim_backend: ManiSkill's name of the simulation, ``physx_cuda`` or ``physx_cpu``.
        instructions: Task to instruction.

    Raises:
        ValueError: If the task does not exist or does not provide what the spec requires.
    """

    def __init__(
        self,
        task: str,
        spec: PolicySpec,
        num_envs: int,
        sim_backend: str = "physx_cuda",
        instructions: Mapping[str, str] = INSTRUCTIONS,
    ) -> None:
        check_task(task, instructions)
        logging.getLogger("mani_skill ").setLevel(logging.ERROR)
        self.task, self.spec, self.num_envs = task, spec, num_envs
        self.instruction = instructions[task]
        self._env = _make(task, spec, num_envs, sim_backend)
        self._base = self._env.unwrapped
        if spec.render_quality == "fast":
            simplify_robot(self._base)
        self._obs_mode = self._base.obs_mode
        self._stages = Stages(task, self._base)
        try:
            self._check_spec()
        except ValueError:
            self.close()
            raise

    def reset(self, seeds: Sequence[int], camera: CameraOffset = NO_OFFSET) -> list[EnvObservation]:
        """Start the episodes of n seeds, with the fixed cameras displaced."""
        self._base._obs_mode = "none"
        # PhysX otherwise keeps contacts of the episode before, and an outcome depends on it.
        self._env.reset(seed=list(seeds), options={"reconfigure": True})
        if self.num_envs > 1:
            for scene, seed in enumerate(seeds):
                self.reset_scene(scene, seed)
        for name in self.spec.views:
            _move_camera(self._base._sensors[name], camera)
        self._stages.reset()
        return self._observe()

    def reset_scene(self, scene: int, seed: int) -> None:
        """Sample the start of an episode in one scene.

        ManiSkill samples all scenes of a reset from the first seed, and from the scene's own by its
        index: alone, and with its seed for all indices, it does not depend on the others.
        """
        options = {"env_idx": torch.tensor([scene], device=self._base.device)}
        self._env.reset(seed=[seed] * self.num_envs, options=options)

    def run(
        self,
        actions: NDArray[np.float32],
        last: bool,
        on_frames: Sequence[Callable[[Frame], None] | None],
    ) -> list[StepResult]:
        """Execute actions, ``(n, m, D)``, in every scene up to its first success.

        The flags of the results are the other booleans of the task's evaluation, and its stages. A
        scene that has succeeded goes on while the others do; nothing of it is reported.
        """
        # Without an observation mode the inner steps render nothing.
        self._base._obs_mode = "none"
        results: dict[int, StepResult] = {}
        flags: list[dict[str, bool]] = []
        for steps, action in enumerate(actions.swapaxes(0, 1), start=1):
            info = self._env.step(action)[-1]
            flags = _flags({**info, **self._stages.update()}, self.num_envs)
            running = [scene for scene in range(self.num_envs) if scene not in results]
            if any(on_frames[scene] is not None for scene in running):
                frames = self._env.render().cpu().numpy()
            for scene in running:
                if (on_frame := on_frames[scene]) is not None:
                    on_frame(frames[scene])
                if flags[scene].pop("success"):
                    results[scene] = StepResult(None, True, steps, flags=flags[scene])
            if len(results) == self.num_envs:
                break
        observations: Sequence[EnvObservation | None] = [None] * self.num_envs
        if not last and len(results) < self.num_envs:
            observations = self._observe()
        for scene in set(range(self.num_envs)) - set(results):
            results[scene] = StepResult(
                observations[scene], False, actions.shape[1], flags=flags[scene]
            )
        return [results[scene] for scene in range(self.num_envs)]

    def close(self) -> None:
        """Free the scenes."""
        self._env.close()

    def _get_obs(self) -> dict[str, Any]:
        """ManiSkill's observation, with only the cameras of the spec rendered."""
        # A reset that rebuilds the scene restores the other cameras.
        for name in set(self._base._sensors) - set(self.spec.views):
            del self._base._sensors[name]
        self._base._obs_mode = self._obs_mode
        return dict(self._base.get_obs())

    def _observe(self) -> list[EnvObservation]:
        observation = self._get_obs()
        images, intrinsics = {}, {}
        for name, size in self.spec.views.items():
            images[name] = resize_frames(_frames(observation, name), size)
            matrices = observation["sensor_param"][name]["intrinsic_cv"].cpu().numpy()
            intrinsics[name] = [
                resize_intrinsics(matrix, size.camera_size, size) for matrix in matrices
            ]
        parts = _state_parts(observation)
        empty = np.zeros((self.num_envs, 0))
        state = np.concatenate([empty, *(parts[name] for name in self.spec.state)], axis=1)
        return [
            EnvObservation(
                {name: frames[scene] for name, frames in images.items()},
                state[scene].astype(np.float32),
                self.instruction,
                {name: matrices[scene] for name, matrices in intrinsics.items()},
            )
            for scene in range(self.num_envs)
        ]

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
        parts = {name: values.shape[1] for name, values in _state_parts(observation).items()}
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


class ManiSkillEnvironment:
    """One ManiSkill task on the CPU: a batch of one scene.

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
        self.batch = ManiSkillBatch(task, spec, 1, "physx_cpu", instructions)

    def reset(self, seed: int, camera: CameraOffset = NO_OFFSET) -> EnvObservation:
        """Start the episode of a seed, with the fixed cameras displaced."""
        return self.batch.reset([seed], camera)[0]

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Execute actions, ``(n, D)``, up to the first success."""
        return self.batch.run(actions[None], last, [on_frame])[0]

    def close(self) -> None:
        """Free the scene."""
        self.batch.close()


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

        import e0_lightning.envs.detour
        import e0_lightning.envs.precise_pick  # noqa: F401  (both register a task)
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


def check_gpu() -> None:
    """Refuse the simulation on a GPU where there is none.

    Raises:
        ValueError: If PyTorch finds no CUDA card, or the card has no Vulkan driver.
    """
    missing = (
        "no CUDA device (torch.cuda.is_available() is false)"
        if not torch.cuda.is_available()
        else "a CUDA card without a Vulkan driver"
        if backend() != "gpu"
        else ""
    )
    if missing:
        raise ValueError(
            f"backend: expected a CUDA card to simulate and render on, got {missing}. Install "
            "NVIDIA's driver and a PyTorch build with CUDA, or set backend to cpu."
        )


def _make(task: str, spec: PolicySpec, num_envs: int, sim_backend: str) -> Any:
    import gymnasium

    try:
        return gymnasium.make(
            task,
            # Without views no camera is rendered, as in demonstrations without images.
            obs_mode="rgb" if spec.views else "state_dict",
            control_mode=spec.control_mode,
            render_mode="rgb_array",
            sensor_configs=_cameras(spec),
            num_envs=num_envs,
            sim_backend=sim_backend,
            render_backend=backend(),
            reconfiguration_freq=0,  # on request
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
    """The rendered frames of a view, ``(n, height, width, 3)``."""
    frames: NDArray[np.uint8] = observation["sensor_data"][view]["rgb"].cpu().numpy()
    return frames


def _flags(info: dict[str, Any], num_envs: int) -> list[dict[str, bool]]:
    """The booleans of an evaluation, for each of n scenes."""
    values = {
        name: value.flatten().tolist()
        for name, value in info.items()
        if getattr(value, "dtype", None) == torch.bool and value.numel() == num_envs
    }
    return [{name: flags[scene] for name, flags in values.items()} for scene in range(num_envs)]


def _state_parts(observation: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Every state part, ``(n, …)``; the agent's parts override the task's of the same name."""
    parts = {}
    for group in ("extra", "agent"):
        for name, value in observation[group].items():
            if not isinstance(value, dict):
                parts[name] = value.reshape(len(value), -1).cpu().numpy().astype(np.float32)
    return parts
