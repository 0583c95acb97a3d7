"""One LIBERO demonstration, recorded in the format of the official files."""

from __future__ import annotations

import json
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.collection.episode_store import LIBVER
from e0_lightning.collection.libero_expert import LiberoExpert
from e0_lightning.data.formats.libero import CAMERAS, CONTROL_MODE
from e0_lightning.envs.libero import NO_OP, PARTS, LiberoEnvironment, state_parts
from e0_lightning.envs.libero_tasks import scene_file
from e0_lightning.types import PolicySpec, RenderQuality, ViewSize

MAX_STEPS = 520
"""Steps after which an attempt has failed."""

FRAMES_PER_CHUNK = 16
"""Images in an HDF5 chunk: the background is static, so chunks along time compress well."""


class Demonstrator:
    """Demonstrates tasks, one attempt after another; keeps the scene while the task is the same.

    Args:
        image_size: Image side in pixels.
        render_quality: How images are rendered.
        backend: MuJoCo's OpenGL backend.
        assets: Folder of meshes and textures.
    """

    def __init__(
        self, image_size: int, render_quality: RenderQuality, backend: str, assets: Path
    ) -> None:
        self.image_size, self.render_quality = image_size, render_quality
        self.backend, self.assets = backend, assets
        self.environment: LiberoEnvironment | None = None

    def demonstrate(self, task: str, seed: int, path: Path) -> str:
        """Attempt a task from the initial state of a seed, and record it if it succeeds.

        Returns:
            Why it failed, empty if `path` was written.

        Raises:
            ValueError: If the expert cannot solve this kind of task.
        """
        environment = self._environment(task)
        rows: list[dict[str, NDArray[Any]]] = []

        def record(state: NDArray[Any], action: NDArray[Any], observed: dict[str, Any]) -> None:
            rows.append({"states": state, "actions": action, **self._record(environment, observed)})

        actions, success = attempt(environment, seed, record)
        if not success:
            return f"the goal was not reached within {len(actions)} steps"
        _write(path, environment, rows, seed)
        return ""

    def _environment(self, task: str) -> LiberoEnvironment:
        if self.environment is None or self.environment.task != task:
            if self.environment is not None:
                self.environment.close()
                self.environment = None
            views = dict.fromkeys(CAMERAS, ViewSize(self.image_size, self.image_size))
            spec = PolicySpec(
                views, PARTS, 7, CONTROL_MODE, horizon=1, render_quality=self.render_quality
            )
            self.environment = LiberoEnvironment(task, spec, self.backend, self.assets)
        return self.environment

    def _record(
        self, environment: LiberoEnvironment, observed: dict[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """Render images and convert an observation, by dataset name."""
        names = ("robot0_gripper_qpos", "robot0_eef_pos", "robot0_eef_quat")
        images = {
            # Stored bottom row first, as LIBERO does.
            f"obs/{view}_rgb": environment.render(view, self.image_size, self.image_size)[::-1]
            for view in CAMERAS
        }
        parts = {f"obs/{name}": part for name, part in state_parts(observed).items()}
        states = np.concatenate([observed[name] for name in names])
        return {**images, **parts, "robot_states": states}


def attempt(
    environment: LiberoEnvironment,
    seed: int,
    on_step: Callable[[NDArray[Any], NDArray[Any], dict[str, Any]], None] | None = None,
) -> tuple[list[NDArray[np.float64]], bool]:
    """Run the expert; its actions, and whether it succeeded.

    Args:
        environment: The task.
        seed: Of the initial state.
        on_step: Called after each step with the state before it, its action, and the observation.
    """
    environment.reset_to_random_placement(seed)
    env = environment.control_env
    expert = LiberoExpert(env)
    # The official files record the observation after an action, so one idle step is added in front:
    # it records where the expert starts.
    actions, action, success = [], np.array(NO_OP), False
    while True:
        state: NDArray[Any] = env.get_sim_state()
        observed, _, success, _ = env.step(action)
        actions.append(action)
        if on_step is not None:
            on_step(state, action, observed)
        if expert.finished or len(actions) == MAX_STEPS:
            return actions, bool(success)
        action = np.clip(expert.act(observed), -1, 1)


def _write(
    path: Path,
    environment: LiberoEnvironment,
    rows: list[dict[str, NDArray[Any]]],
    seed: int,
) -> None:
    """Write one demonstration as ``data/demo_0``, with checksums and LIBERO's own metadata."""
    import h5py

    with h5py.File(path, "w", libver=LIBVER) as file:
        data = file.create_group("data")
        data.attrs.update(_metadata(environment))
        demo = data.create_group("demo_0")
        demo.attrs["num_samples"] = len(rows)
        demo.attrs["init_state"] = rows[0]["states"]
        demo.attrs["seed"] = seed
        demo.attrs["model_file"] = environment.control_env.sim.model.get_xml()
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        arrays["rewards"] = arrays["dones"] = np.eye(len(rows), dtype=np.uint8)[-1]
        for name, values in arrays.items():
            is_image = values.ndim == 4
            frames = min(FRAMES_PER_CHUNK, len(rows)) if is_image else len(rows)
            demo.create_dataset(
                name,
                data=values,
                chunks=(frames, *values.shape[1:]),
                compression="gzip" if is_image else None,
                fletcher32=True,
            )


def _metadata(environment: LiberoEnvironment) -> dict[str, Any]:
    env = environment.control_env
    bddl = scene_file(environment.task)
    problem = {
        "problem_name": env.problem_name,
        "domain_name": env.domain_name,
        "language_instruction": env.language_instruction,
    }
    env_args = {
        "type": 1,
        "env_name": env.problem_name,
        "problem_name": env.problem_name,
        "bddl_file": bddl.name,
        "env_kwargs": {
            "bddl_file_name": bddl.name,
            "robots": ["Panda"],
            "controller_configs": {"type": "OSC_POSE", "control_delta": True},
            "control_freq": 20,
            "render_quality": environment.spec.render_quality,
        },
    }
    return {
        "env_name": env.problem_name,
        "problem_info": json.dumps(problem),
        "macros_image_convention": "opengl",
        "bddl_file_name": f"{bddl.parent.name}/{bddl.name}",
        "bddl_file_content": bddl.read_text(),
        "env_args": json.dumps(env_args),
    }


def work(
    connection: Connection,
    image_size: int,
    render_quality: RenderQuality,
    backend: str,
    assets: Path,
) -> None:
    """Demonstrate what is received as ``(task, seed, path)``; see `collect_episodes`."""
    demonstrator = Demonstrator(image_size, render_quality, backend, assets)
    while True:
        task, seed, path = connection.recv()
        try:
            result: Any = demonstrator.demonstrate(task, seed, path)
        except Exception as error:
            result = error
        connection.send(result)
