"""One LIBERO demonstration, recorded in the layout of the official files."""

from __future__ import annotations

import json
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.collection.libero_expert import PickAndPlace
from e0_lightning.data.formats.libero import CAMERAS, CONTROL_MODE
from e0_lightning.envs.libero import PARTS, STAY, LiberoEnvironment, state_parts
from e0_lightning.envs.libero_assets import package
from e0_lightning.types import PolicySpec

LIMIT = 400
"""Steps after which an attempt has failed."""

FRAMES = 16
"""Images in an HDF5 chunk: the floor and walls repeat, so chunks along time compress well."""


class Demonstrator:
    """Demonstrates tasks, one attempt after another; keeps the scene while the task is the same.

    Args:
        image_size: Side of the images in pixels.
        backend: What MuJoCo draws with.
        assets: Folder of meshes and textures.
    """

    def __init__(self, image_size: int, backend: str, assets: Path) -> None:
        self.image_size, self.backend, self.assets = image_size, backend, assets
        self.environment: LiberoEnvironment | None = None

    def demonstrate(self, task: str, seed: int, path: Path) -> str:
        """Attempt a task from the placement of a seed, and record it if it succeeds.

        Returns:
            Why it failed, empty if `path` was written.

        Raises:
            ValueError: If the expert cannot do this kind of task.
        """
        environment = self._of(task)
        actions, success = _attempt(environment, seed)
        if not success:
            return f"the goal was not reached within {len(actions)} steps"
        # Played once more for the pictures, which cost ten times as much as the physics: the same
        # actions from the same seed lead to the same states.
        environment.scatter(seed)
        rows: list[dict[str, NDArray[Any]]] = []
        for action in actions:
            before = environment.world.get_sim_state()
            seen, _, success, _ = environment.world.step(action)
            rows.append({"states": before, "actions": action, **self._see(environment, seen)})
        assert success
        _write(path, environment, rows, seed)
        return ""

    def _of(self, task: str) -> LiberoEnvironment:
        if self.environment is None or self.environment.task != task:
            if self.environment is not None:
                self.environment.close()
                self.environment = None
            views = dict.fromkeys(CAMERAS, self.image_size)
            spec = PolicySpec(views, PARTS, 7, CONTROL_MODE, 1)
            self.environment = LiberoEnvironment(task, spec, self.backend, self.assets)
        return self.environment

    def _see(self, environment: LiberoEnvironment, seen: dict[str, Any]) -> dict[str, NDArray[Any]]:
        names = ("robot0_gripper_qpos", "robot0_eef_pos", "robot0_eef_quat")
        images = {
            # Stored bottom row first, as LIBERO does.
            f"obs/{view}_rgb": environment.draw(view, self.image_size)[::-1]
            for view in CAMERAS
        }
        parts = {f"obs/{name}": part for name, part in state_parts(seen).items()}
        return {**images, **parts, "robot_states": np.concatenate([seen[name] for name in names])}


def _attempt(environment: LiberoEnvironment, seed: int) -> tuple[list[NDArray[np.float64]], bool]:
    """Let the expert act to its end, without pictures; its actions, and whether it succeeded."""
    seen = environment.scatter(seed)
    expert = PickAndPlace(environment.world)
    # The official files record what is seen after an action, so a step of waiting goes first: it
    # shows where the expert began.
    actions = [np.array(STAY)]
    seen, _, success, _ = environment.world.step(actions[0])
    while not expert.finished and len(actions) < LIMIT:
        actions.append(np.clip(expert.act(seen), -1, 1))
        seen, _, success, _ = environment.world.step(actions[-1])
    return actions, bool(success)


def _write(
    path: Path,
    environment: LiberoEnvironment,
    rows: list[dict[str, NDArray[Any]]],
    seed: int,
) -> None:
    """Write one demonstration as ``data/demo_0``, with everything that LIBERO writes beside it."""
    import h5py

    # Models are longer than the 64 kB that attributes had in older versions of the format.
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_group("data")
        data.attrs.update(_about(environment))
        demo = data.create_group("demo_0")
        demo.attrs["num_samples"] = len(rows)
        demo.attrs["init_state"] = rows[0]["states"]
        demo.attrs["seed"] = seed
        demo.attrs["model_file"] = environment.world.sim.model.get_xml()
        for name in rows[0]:
            values = np.stack([row[name] for row in rows])
            chunks = (min(FRAMES, len(rows)), *values.shape[1:]) if values.ndim == 4 else None
            demo.create_dataset(
                name, data=values, chunks=chunks, compression="gzip" if chunks else None
            )
        last = np.zeros(len(rows), dtype=np.uint8)
        last[-1] = 1
        demo["rewards"], demo["dones"] = last, last


def _about(environment: LiberoEnvironment) -> dict[str, Any]:
    world = environment.world
    suite, name = environment.task.split("/")
    bddl = package() / "bddl_files" / suite / f"{name}.bddl"
    told = {
        "problem_name": world.problem_name,
        "domain_name": world.domain_name,
        "language_instruction": world.language_instruction,
    }
    made = {
        "type": 1,
        "env_name": world.problem_name,
        "problem_name": world.problem_name,
        "bddl_file": bddl.name,
        "env_kwargs": {
            "bddl_file_name": bddl.name,
            "robots": ["Panda"],
            "controller_configs": {"type": "OSC_POSE", "control_delta": True},
            "control_freq": 20,
        },
    }
    return {
        "env_name": world.problem_name,
        "problem_info": json.dumps(told),
        "macros_image_convention": "opengl",
        "bddl_file_name": f"{suite}/{bddl.name}",
        "bddl_file_content": bddl.read_text(),
        "env_args": json.dumps(made),
    }


def work(connection: Connection, image_size: int, backend: str, assets: Path, folder: Path) -> None:
    """Answer ``(task, seed)`` with ``(file, why not)`` or an exception; the loop of a worker."""
    with tempfile.TemporaryDirectory(prefix="unfinished_", dir=folder) as own:
        path = Path(own) / "demonstration.hdf5"
        demonstrator = Demonstrator(image_size, backend, assets)
        while True:
            task, seed = connection.recv()
            try:
                answer: Any = (path, demonstrator.demonstrate(task, seed, path))
            except Exception as error:
                answer = error
            connection.send(answer)
