"""LIBERO tasks as environments."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.libero import CAMERAS, CONTROL_MODE
from e0_lightning.envs.base import EnvObservation, Frame, StepResult
from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset, look_at_point, orbit
from e0_lightning.envs.libero_assets import ADVICE, load_package
from e0_lightning.envs.libero_meshes import simplify_meshes
from e0_lightning.envs.libero_tasks import (
    add_pro_objects,
    check_task,
    initial_states,
    instruction,
    scene_file,
    split_suite,
)
from e0_lightning.envs.mujoco_gl import gl_variables
from e0_lightning.geometry import (
    camera_matrix,
    quaternion_to_axis_angle,
    resize_frames,
    resize_intrinsics,
)
from e0_lightning.types import MIRRORED, PolicySpec

SETTLE_STEPS = 10
"""No-op steps before an episode, in which objects settle and the gripper opens."""

NO_OP = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""The action of those steps."""

PARTS = {"ee_pos": 3, "ee_ori": 3, "gripper_states": 2, "joint_states": 7, "ee_states": 6}
"""State parts and their dimensions, with the names of the demonstrations."""


class LiberoEnvironment:
    """One LIBERO task, observed and controlled according to a spec.

    Cameras are rendered only for the observations that an actor receives. The scene is built
    once: a reset then takes 20 ms instead of a second and gives the same state to the bit every
    time; the state of a newly built scene differs by the rounding of the solver, 1e-13.

    Args:
        task: ``<suite>/<task name>``.
        spec: Required views and their sizes, state parts, control mode, action dimensions and
            render quality.
        backend: MuJoCo's rendering backend, ``egl`` or ``osmesa``.
        assets: Folder of meshes and textures.

    Raises:
        ValueError: If the task does not exist, does not provide what the spec requires, or the
            assets are incomplete.
        ModuleNotFoundError: If LIBERO, or LIBERO-PRO for a perturbed suite, is not installed.
    """

    def __init__(self, task: str, spec: PolicySpec, backend: str, assets: Path) -> None:
        check_task(task)
        check_spec(task, spec)
        self.task, self.spec = task, spec
        self.instruction = instruction(task)
        os.environ.update(gl_variables(backend))
        load_package(assets)
        if split_suite(task.split("/")[0])[1]:
            add_pro_objects(assets)
        try:
            self._env = build(task)
            self._env.env.reset()  # creates the rendering context
        except (OSError, ValueError) as error:
            raise ValueError(
                f"LIBERO cannot build {task}; the assets in {assets} may be incomplete ({error}): "
                f"{ADVICE}"
            ) from error
        if spec.render_quality == "fast":
            render_fast(self._env.sim)
        self._initial_states = initial_states(task)
        self._obs: dict[str, Any] = {}
        model = self._env.sim.model
        name = CAMERAS["agentview"]
        self._camera = model.camera_name2id(name)
        self._camera_pose = model.cam_pos[self._camera].copy(), model.cam_quat[self._camera].copy()

    @property
    def control_env(self) -> Any:
        """LIBERO's ``ControlEnv``, for experts that use privileged state."""
        return self._env

    def reset(self, seed: int, camera: CameraOffset = NO_OFFSET) -> EnvObservation:
        """Start from the official initial state of this index and let the objects settle.

        Raises:
            ValueError: If the initial state does not exist.
        """
        self.reset_to_initial_state(seed)
        self._move_camera(camera)
        return self._observe()

    def reset_to_initial_state(self, index: int) -> dict[str, Any]:
        """Start from an official initial state without rendering; returns LIBERO's observation."""
        last = len(self._initial_states) - 1
        if not 0 <= index <= last:
            raise ValueError(
                f"{self.task}: expected an initial state from 0 to {last}, got {index}."
            )
        # Fixtures are placed at random; with a constant seed an episode depends on its initial
        # state alone.
        self._reset(0)
        self._env.set_init_state(self._initial_states[index])
        return self._settle()

    def reset_to_random_placement(self, seed: int) -> dict[str, Any]:
        """Start from a placement sampled from the task's regions instead, without rendering."""
        self._reset(seed)
        return self._settle()

    def _reset(self, seed: int) -> None:
        np.random.seed(seed)
        # A reset that keeps the scene does not reset the last command of the gripper.
        gripper = self._env.env.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)
        # LIBERO places objects in drawers and on stoves relative to fixtures at the origin, where
        # they stand in a newly built scene.
        model = self._env.sim.model
        for fixture in self._env.env.fixtures_dict.values():
            body = model.body_name2id(fixture.root_body)
            model.body_pos[body], model.body_quat[body] = (0, 0, 0), (1, 0, 0, 0)
        self._env.env.reset()

    def _settle(self) -> dict[str, Any]:
        for _ in range(SETTLE_STEPS):
            self._obs = self._env.step(np.array(NO_OP))[0]
        return self._obs

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Execute actions, ``(n, 7)``, up to the first success."""
        success, steps = False, 0
        for action in actions:
            self._obs, _, success, _ = self._env.step(action.astype(np.float64))
            steps += 1
            if on_frame is not None:
                on_frame(self.render("agentview", 256, 256))
            if success:
                break
        return StepResult(None if success or last else self._observe(), bool(success), steps)

    def close(self) -> None:
        """Free the scene and its rendering context."""
        # The context must be freed before another is created, because freeing it clears the new
        # one.
        self._env.close()
        del self._env

    def render(self, view: str, height: int, width: int) -> Frame:
        """Render a view, upright, ``(height, width, 3)``; ``…_mirrored`` swaps left and right."""
        name = view.removesuffix(MIRRORED)
        pixels = self._env.sim.render(width, height, camera_name=CAMERAS[name])
        upright = pixels[::-1, ::-1] if view.endswith(MIRRORED) else pixels[::-1]
        return np.ascontiguousarray(upright)

    def _observe(self) -> EnvObservation:
        parts = state_parts(self._obs)
        state = [parts[name] for name in self.spec.state]
        model = self._env.sim.model
        images, intrinsics = {}, {}
        for view, size in self.spec.views.items():
            frame = self.render(view, *size.camera_size)
            images[view] = resize_frames(frame[None], size)[0]
            if view in CAMERAS:
                fov = float(model.cam_fovy[model.camera_name2id(CAMERAS[view])])
                matrix = camera_matrix(fov, *size.camera_size)
                intrinsics[view] = resize_intrinsics(matrix, size.camera_size, size)
        return EnvObservation(
            images,
            np.concatenate([np.zeros(0), *state]).astype(np.float32),
            self.instruction,
            intrinsics,
        )

    def _move_camera(self, offset: CameraOffset) -> None:
        from scipy.spatial.transform import Rotation

        position, quaternion = self._camera_pose
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat(np.roll(quaternion, -1)).as_matrix()  # MuJoCo: wxyz
        pose[:3, 3] = position
        if tuple(offset) != NO_OFFSET:
            # MuJoCo's cameras point along -z.
            table = float(self._env.env.workspace_offset[2])
            pose = orbit(pose, look_at_point(position, -pose[:3, 2], table), offset)
            quaternion = np.roll(Rotation.from_matrix(pose[:3, :3]).as_quat(), 1)
        model = self._env.sim.model
        model.cam_pos[self._camera], model.cam_quat[self._camera] = pose[:3, 3], quaternion
        self._env.sim.forward()


def build(task: str) -> Any:
    """LIBERO's environment of a task, without rendered observations."""
    from libero.libero.envs.env_wrapper import ControlEnv

    return ControlEnv(
        bddl_file_name=str(scene_file(task)),
        use_camera_obs=False,
        has_offscreen_renderer=True,
        hard_reset=False,
    )


def render_fast(sim: Any) -> None:
    """Render fewer triangles, without multisampling and reflections.

    MuJoCo draws a scene twice for reflections.
    """
    import mujoco

    context = sim._render_context_offscreen
    simplify_meshes(sim.model._model)
    sim.model.vis.quality.offsamples = 0
    context.con.free()  # its buffers have the number of samples of their creation
    context._set_mujoco_context_and_buffers()
    context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0


def check_spec(task: str, spec: PolicySpec) -> None:
    """Refuse a spec that LIBERO cannot provide.

    Raises:
        ValueError: If views, state, control mode or action dimensions are not LIBERO's.
    """
    if spec.action_dim != 7 or spec.control_mode != CONTROL_MODE:
        raise ValueError(
            f"{task}: expected 7 action dimensions in {CONTROL_MODE}, got {spec.action_dim} in "
            f"{spec.control_mode!r} from the actor. Use a policy that was trained on LIBERO."
        )
    for view in spec.views:
        if view.removesuffix(MIRRORED) not in CAMERAS:
            raise ValueError(
                f"{task}: expected views among {', '.join(CAMERAS)}, each also as …{MIRRORED}, got "
                f"{view!r} from the actor. Train the policy on these views."
            )
    for part, size in spec.state.items():
        if PARTS.get(part) != size:
            parts = ", ".join(f"{name} ({dims})" for name, dims in PARTS.items())
            raise ValueError(
                f"{task}: expected state parts (dimensions) among {parts}, got {part} ({size}) "
                "from the actor. Train the policy on these state parts."
            )


def state_parts(observation: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """State parts of LIBERO's observation, with the names of the demonstrations."""
    position = observation["robot0_eef_pos"]
    rotation = quaternion_to_axis_angle(observation["robot0_eef_quat"])
    return {
        "ee_pos": position,
        "ee_ori": rotation,
        "gripper_states": observation["robot0_gripper_qpos"],
        "joint_states": observation["robot0_joint_pos"],
        "ee_states": np.concatenate([position, rotation]),
    }


def versions() -> dict[str, str]:
    """Versions of simulator and renderer."""
    packages = ("hf-libero", "robosuite", "mujoco", "numpy")
    return {name: importlib.metadata.version(name) for name in packages}
