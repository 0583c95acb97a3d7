"""LIBERO tasks as environments for an actor."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import runpy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.base import camera_matrix
from e0_lightning.data.formats.libero import (
    CAMERAS,
    CONTROL_MODE,
    axis_angle,
    sentence,
)
from e0_lightning.envs.base import EnvObservation, Frame, StepResult
from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset, look_at_point, orbit
from e0_lightning.envs.libero_assets import ADVICE, load_package, package
from e0_lightning.envs.mujoco_gl import environment
from e0_lightning.types import MIRRORED, PolicySpec

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
"""The four suites of ten tasks each."""

WAIT = 10
"""Steps in which objects settle before the actor is asked; the gripper opens."""

STAY = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""The action of those steps."""

PARTS = {"ee_pos": 3, "ee_ori": 3, "gripper_states": 2, "joint_states": 7, "ee_states": 6}
"""State parts and their dimensions, named as in the demonstrations."""


class LiberoEnvironment:
    """One LIBERO task, shown and controlled as a spec says.

    Pictures are drawn only when someone looks. The scene is built once: a reset then takes 20 ms
    instead of a second, and leaves the same state to the bit every time; the state of a scene
    built anew differs from it by the rounding of the solver, 1e-13.

    Args:
        task: ``<suite>/<name of the task>``.
        spec: Views and their sides, state parts, control mode and action dimensions wanted.
        backend: What MuJoCo draws with, ``egl`` or ``osmesa``.
        assets: Folder of meshes and textures.

    Raises:
        ValueError: If there is no such task, or it cannot keep the spec, or the assets lack
            something.
        ModuleNotFoundError: If LIBERO is not installed.
    """

    def __init__(self, task: str, spec: PolicySpec, backend: str, assets: Path) -> None:
        require_task(task)
        require_spec(task, spec)
        self.task, self.spec = task, spec
        self.instruction = sentence(task.split("/")[1])
        os.environ.update(environment(backend))
        load_package(assets)
        try:
            self._env = build(task)
            self._env.env.reset()  # makes the drawing context
        except (OSError, ValueError) as error:
            raise ValueError(
                f"LIBERO cannot build {task}; the assets {assets} may lack something ({error}): "
                f"{ADVICE}"
            ) from error
        self._starts = initial_states(task)
        self._seen: dict[str, Any] = {}
        model = self._env.sim.model
        name = CAMERAS["agentview"]
        self._camera = model.camera_name2id(name)
        self._place = model.cam_pos[self._camera].copy(), model.cam_quat[self._camera].copy()

    @property
    def world(self) -> Any:
        """LIBERO's own environment, for an expert that may know everything."""
        return self._env

    def reset(self, seed: int, camera: CameraOffset = NO_OFFSET) -> EnvObservation:
        """Start from the initial state of that number, and let the objects settle.

        Raises:
            ValueError: If there is no such initial state.
        """
        self.begin(seed)
        self._move_camera(camera)
        return self._view()

    def begin(self, seed: int) -> dict[str, Any]:
        """Start without drawing; what LIBERO reports of robot and objects."""
        if not 0 <= seed < len(self._starts):
            raise ValueError(
                f"{self.task} has initial states 0 to {len(self._starts) - 1}, {seed} is asked for"
            )
        # Where furniture stands is drawn at random; one seed, so that an episode depends on its
        # initial state alone.
        self._reset(0)
        self._env.set_init_state(self._starts[seed])
        return self._settle()

    def scatter(self, seed: int) -> dict[str, Any]:
        """Start from a placement drawn from the task's regions instead, without drawing."""
        self._reset(seed)
        return self._settle()

    def _reset(self, seed: int) -> None:
        np.random.seed(seed)
        # The gripper's last command would outlive a reset that keeps the scene.
        gripper = self._env.env.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)
        self._env.env.reset()

    def _settle(self) -> dict[str, Any]:
        for _ in range(WAIT):
            self._seen = self._env.step(np.array(STAY))[0]
        return self._seen

    def run(
        self, actions: NDArray[np.float32], last: bool, on_frame: Callable[[Frame], None] | None
    ) -> StepResult:
        """Carry out actions, ``(n, 7)``, up to the first success."""
        success, steps = False, 0
        for action in actions:
            self._seen, _, success, _ = self._env.step(action.astype(np.float64))
            steps += 1
            if on_frame is not None:
                on_frame(self.draw("agentview", 256))
            if success:
                break
        return StepResult(None if success or last else self._view(), bool(success), steps)

    def close(self) -> None:
        """Free the scene and what draws it."""
        # The drawing context must die before another is made: its end would empty the new one.
        self._env.close()
        del self._env

    def draw(self, view: str, side: int) -> Frame:
        """Draw a view, upright, ``(side, side, 3)``; ``…_mirrored`` also swaps left and right."""
        name = view.removesuffix(MIRRORED)
        pixels = self._env.sim.render(side, side, camera_name=CAMERAS[name])
        turned = pixels[::-1, ::-1] if view.endswith(MIRRORED) else pixels[::-1]
        return np.ascontiguousarray(turned)

    def _view(self) -> EnvObservation:
        sides = self.spec.views
        parts = state_parts(self._seen)
        state = [parts[name] for name in self.spec.state]
        field = self._env.sim.model.cam_fovy
        intrinsics = {
            view: camera_matrix(float(field[self._env.sim.model.camera_name2id(CAMERAS[view])]), n)
            for view, n in sides.items()
            if view in CAMERAS
        }
        return EnvObservation(
            {view: self.draw(view, side) for view, side in sides.items()},
            np.concatenate([np.zeros(0), *state]).astype(np.float32),
            self.instruction,
            intrinsics,
        )

    def _move_camera(self, offset: CameraOffset) -> None:
        from robosuite.utils.transform_utils import convert_quat, mat2quat, quat2mat

        position, quaternion = self._place
        pose = np.eye(4)
        pose[:3, :3] = quat2mat(convert_quat(quaternion, to="xyzw"))
        pose[:3, 3] = position
        if tuple(offset) != NO_OFFSET:
            # MuJoCo's cameras look along -z.
            table = float(self._env.env.workspace_offset[2])
            pose = orbit(pose, look_at_point(position, -pose[:3, 2], table), offset)
            quaternion = convert_quat(mat2quat(pose[:3, :3]), to="wxyz")
        model = self._env.sim.model
        model.cam_pos[self._camera], model.cam_quat[self._camera] = pose[:3, 3], quaternion
        self._env.sim.forward()


def build(task: str) -> Any:
    """LIBERO's environment of a task, which draws nothing by itself."""
    from libero.libero.envs.env_wrapper import ControlEnv

    suite, name = task.split("/")
    return ControlEnv(
        bddl_file_name=str(package() / "bddl_files" / suite / f"{name}.bddl"),
        use_camera_obs=False,
        has_offscreen_renderer=True,
        hard_reset=False,
    )


def initial_states(task: str) -> NDArray[np.float64]:
    """The official initial states of a task, ``(50, 1 + positions + velocities)``."""
    import torch

    suite, name = task.split("/")
    rebuild = np.empty(0).__reduce__()[0]
    # They were pickled by an older NumPy, whose module has another name in NumPy 2.
    safe: list[Any] = [np.ndarray, np.dtype, np.dtypes.Float64DType, rebuild]
    safe.append((rebuild, "numpy.core.multiarray._reconstruct"))
    with torch.serialization.safe_globals(safe):
        path = package() / "init_files" / suite / f"{name}.pruned_init"
        states: NDArray[np.float64] = torch.load(path, weights_only=True)
    return states


@cache
def tasks(suite: str) -> list[str]:
    """Names of a suite's tasks, ``<suite>/<name>``, in LIBERO's order.

    Raises:
        ValueError: If there is no such suite.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    if suite not in SUITES:
        close = difflib.get_close_matches(suite, SUITES, n=1, cutoff=0.3)
        raise ValueError(
            f"LIBERO has no suite {suite!r}; "
            + (f"did you mean {close[0]}? " if close else "")
            + f"There are: {', '.join(SUITES)}."
        )
    source = package() / "benchmark" / "libero_suite_task_map.py"
    # Importing the package needs its settings and torch; the table is a file of its own.
    found = runpy.run_path(str(source))
    return [f"{suite}/{name}" for name in found["libero_task_map"][suite]]


def require_task(task: str) -> None:
    """Refuse a task that LIBERO does not have.

    Raises:
        ValueError: If it is not ``<suite>/<name>`` with a task of that suite.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    suite, _, name = task.partition("/")
    known = tasks(suite)
    if task not in known:
        close = difflib.get_close_matches(task, known, n=1, cutoff=0.3)
        raise ValueError(
            f"{suite} has no task {name!r}; "
            + (f"did you mean {close[0]}?" if close else f"it has: {', '.join(known)}")
        )


def require_spec(task: str, spec: PolicySpec) -> None:
    """Refuse an actor that LIBERO cannot serve.

    Raises:
        ValueError: If views, state, control mode or action dimensions are not LIBERO's.
    """
    if spec.action_dim != 7 or spec.control_mode != CONTROL_MODE:
        raise ValueError(
            f"{task} takes 7 action dimensions in {CONTROL_MODE}, the actor gives "
            f"{spec.action_dim} in {spec.control_mode!r}"
        )
    for view in spec.views:
        if view.removesuffix(MIRRORED) not in CAMERAS:
            raise ValueError(
                f"{task} has no camera {view!r}, which the actor wants; it has "
                f"{', '.join(CAMERAS)}, each also as …{MIRRORED}"
            )
    for part, size in spec.state.items():
        if PARTS.get(part) != size:
            raise ValueError(
                f"{task} has no state part {part!r} of {size} dimensions, which the actor wants; "
                f"it has {', '.join(f'{name} of {n}' for name, n in PARTS.items())}"
            )


def state_parts(seen: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """State parts from what the simulator reports, named as in the demonstrations."""
    position, turn = seen["robot0_eef_pos"], axis_angle(seen["robot0_eef_quat"])
    return {
        "ee_pos": position,
        "ee_ori": turn,
        "gripper_states": seen["robot0_gripper_qpos"],
        "joint_states": seen["robot0_joint_pos"],
        "ee_states": np.concatenate([position, turn]),
    }


def versions() -> dict[str, str]:
    """Versions of what simulates and draws."""
    packages = ("hf-libero", "robosuite", "mujoco", "numpy")
    return {name: importlib.metadata.version(name) for name in packages}
