"""Demonstrations as ManiSkill 3 records them: ``<name>.h5`` with a sidecar ``<name>.json``."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import fsspec
import h5py
import numpy as np

from e0_lightning.data.formats.base import Array, DemoReader, Floats
from e0_lightning.data.formats.frames import Frames, frame_size
from e0_lightning.data.formats.hdf5 import members
from e0_lightning.data.formats.read_files import note_file
from e0_lightning.data.formats.rendering import read_render_quality
from e0_lightning.types import PolicySpec, ViewSize

INSTRUCTIONS = {
    "PushCube-v1": "push the cube to the target region",
    "PullCube-v1": "pull the cube to the target region",
    "PickCube-v1": "pick up the cube and move it to the goal position",
    "StackCube-v1": "stack the red cube on the green cube",
    "StackPyramid-v1": "put two cubes side by side and stack the third on top of them",
    "PegInsertionSide-v1": "insert the peg into the hole in the side of the box",
    "PlugCharger-v1": "plug the charger into the receptacle",
    "LiftPegUpright-v1": "lift the peg and stand it upright on the table",
    "PlaceSphere-v1": "pick up the sphere and place it in the bin",
    "PullCubeTool-v1": "use the tool to pull the cube closer",
    "DrawTriangle-v1": "draw the outlined triangle on the canvas",
    "DrawSVG-v1": "draw the outlined figure on the canvas",
    "Detour-v1": "move around the post to the goal",
    "PrecisePick-v1": "hold the cube exactly at the goal",
}
"""Task name to instruction; the files hold none."""


class ManiSkillReader(DemoReader):
    """A ManiSkill 3 recording.

    A trajectory of T actions has T + 1 observations, the t-th before the t-th action. It is read to
    its end, whatever the flags ``terminated`` and ``truncated``. Episodes that the sidecar marks as
    unsuccessful are left out; episodes without a mark are kept.
    """

    format = "ManiSkill 3"

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether the groups are called ``traj_0``, ``traj_1`` and so on."""
        return len(file) > 0 and all(name.startswith("traj_") for name in file)

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """The JSON file beside the recording, its episodes compared with the groups."""
        path = self.path.rsplit(".", 1)[0] + ".json"
        note_file(path)
        try:
            with fsspec.open(path, "r") as file:
                sidecar: dict[str, Any] = json.load(file)
            names = [f"traj_{episode['episode_id']}" for episode in sidecar["episodes"]]
            sidecar["env_info"]["env_id"]
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.path}: its sidecar {path} is missing; it holds task and control mode. "
                "Copy it along, ManiSkill writes both."
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: broken sidecar: expected JSON with env_info.env_id and "
                f"episodes[].episode_id, got {type(error).__name__}: {error}. Copy or record it "
                "again."
            ) from error
        if unpaired := sorted(set(names) ^ set(self.file), key=_number):
            place = "the sidecar" if unpaired[0] in names else "the HDF5 file"
            raise ValueError(
                f"{self.path}: sidecar and file disagree on {len(unpaired)} episodes: "
                f"{unpaired[0]} is only in {place}. Use the JSON that was written with this file."
            )
        return sidecar

    @property
    def episodes(self) -> dict[str, dict[str, Any]]:
        """Trajectory name to its entry in the sidecar, in numeric order."""
        episodes = {f"traj_{e['episode_id']}": e for e in self.sidecar["episodes"]}
        return {name: episodes[name] for name in sorted(episodes, key=_number)}

    @property
    def rate(self) -> float:
        """Control frequency of ManiSkill's simulations."""
        return 20

    @property
    def task(self) -> str:
        """Id of the environment."""
        return str(self.sidecar["env_info"]["env_id"])

    def read_instruction(self, demo: str) -> str:
        """Instruction of the task in :data:`INSTRUCTIONS`."""
        if self.task not in INSTRUCTIONS:
            raise ValueError(
                f"{self.path}: there is no instruction for the task {self.task}. Give one with the "
                "demonstrations: {path: …, instruction: …}. Tasks that have one: "
                + ", ".join(INSTRUCTIONS)
                + "."
            )
        return INSTRUCTIONS[self.task]

    def failed(self) -> list[str]:
        """Trajectories whose sidecar entry has ``success: false``."""
        return [name for name, e in self.episodes.items() if not e.get("success", True)]

    def lengths(self) -> dict[str, int]:
        """Every successful trajectory, in numeric order."""
        failed, lengths = set(self.failed()), {}
        for name, episode in self.episodes.items():
            if name in failed:
                continue
            steps, expected = len(self._actions(name)), episode.get("elapsed_steps")
            if expected is not None and steps != expected:
                raise ValueError(
                    f"{self.path}: {name}/actions has {steps} steps, its sidecar says "
                    f"elapsed_steps {expected}. Use the JSON that was written with this file."
                )
            read = [*self.image_dataset(name).values(), *self._state(name).values()]
            if short := [dataset.name for dataset in read if len(dataset) < steps]:
                raise ValueError(
                    f"{self.path}: {short[0]}: expected an observation before each of the {steps} "
                    f"actions of {name}, got fewer. Replay the recording again."
                )
            lengths[name] = steps
        if not lengths:
            raise ValueError(
                f"{self.path}: none of its {len(self.episodes)} episodes succeeded; expected at "
                "least one. Collect more."
            )
        return lengths

    @cached_property
    def _control_mode(self) -> str:
        modes = {e.get("control_mode") for e in self.sidecar["episodes"]}
        if len(modes) != 1 or None in modes:
            raise ValueError(
                f"{self.path}: expected one control mode, got {sorted(map(str, modes))}. Replay "
                "the episodes with `mani_skill.trajectory.replay_trajectory -c <mode>`."
            )
        return str(modes.pop())

    def read_spec(self, demo: str) -> PolicySpec:
        """Headers of a trajectory, control mode of the sidecar."""
        images, state = self.image_dataset(demo), self._state(demo)
        return PolicySpec(
            views={view: ViewSize(*frame_size(dataset)) for view, dataset in images.items()},
            state={part: int(np.prod(d.shape[1:], dtype=int)) for part, d in state.items()},
            action_dim=self._actions(demo).shape[1],
            control_mode=self._control_mode,
            render_quality=read_render_quality(
                self.sidecar["env_info"], f"{self.path}: env_info of its sidecar"
            ),
        )

    def read_actions(self, demo: str, start: int, stop: int) -> Array:
        """Actions as the controller of the recording takes them."""
        return self.rows(self._actions(demo), start, stop)

    def read_states(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """State parts of ``obs/agent`` and ``obs/extra``; flags and scalars have one dimension."""
        return {part: self.rows(d, start, stop) for part, d in self._state(demo).items()}

    def read_images(self, demo: str, start: int, stop: int) -> dict[str, Frames]:
        """Images as rendered: ManiSkill's are upright."""
        views = self.image_dataset(demo)
        return {view: self.frames(dataset, start, stop) for view, dataset in views.items()}

    def read_intrinsics(self, demo: str) -> dict[str, Floats]:
        """``intrinsic_cv`` of each camera, which is constant within a trajectory."""
        found = {}
        for view in self.image_dataset(demo):
            matrix = self.find(f"{demo}/obs/sensor_param/{view}/intrinsic_cv")
            if isinstance(matrix, h5py.Dataset):
                rows = self.rows(matrix, 0, len(matrix))
                found[view] = rows.reshape(-1, 3, 3)[0].astype(np.float32)
        return found

    def read_depth(self, demo: str, view: str, start: int, stop: int) -> Floats | None:
        """Depth of recordings with ``rgb+depth``, which ManiSkill stores in whole millimetres."""
        dataset = self.find(f"{demo}/obs/sensor_data/{view}/depth")
        if not isinstance(dataset, h5py.Dataset):
            return None
        return self.rows(dataset, start, stop)[..., 0].astype(np.float32) / 1000

    def image_dataset(self, demo: str) -> dict[str, h5py.Dataset]:
        """The images of each camera; their chunks differ with their length."""
        views = self._cameras(demo) if self.views is None else self.views
        keys = {view: f"{demo}/obs/sensor_data/{view}/rgb" for view in views}
        found = {view: self.find(key) for view, key in keys.items()}
        missing = [view for view, images in found.items() if not isinstance(images, h5py.Dataset)]
        if missing and not (cameras := self._cameras(demo)):
            raise ValueError(
                f"{self.path}: expected a camera {missing[0]!r}, but {demo} has no images at all: "
                "this is a recording of states. Replay it to RGB (`python -m mani_skill.trajectory."
                "replay_trajectory --traj-path … -o rgb --save-traj`) or use `e0 collect`."
            )
        if missing:
            raise ValueError(
                f"{self.path}: {demo} has no camera {missing[0]!r}, it has {', '.join(cameras)}. "
                "Change `views`, or replay with that camera."
            )
        return found

    def _actions(self, demo: str) -> h5py.Dataset:
        actions = self.find(f"{demo}/actions")
        if isinstance(actions, h5py.Group):
            raise ValueError(
                f"{self.path}: {demo}/actions: expected the actions of one robot, got those of "
                f"several ({', '.join(actions)}), which cannot be read."
            )
        if actions is None or not actions.shape or actions.ndim != 2 or len(actions) == 0:
            got = "nothing" if actions is None else f"shape {actions.shape}"
            raise ValueError(
                f"{self.path}: {demo}/actions: expected (T, D), got {got}. Record it again."
            )
        return actions

    def _state(self, demo: str) -> dict[str, h5py.Dataset]:
        """The state parts of ``obs/agent``, then those of ``obs/extra``."""
        names = self._parts(demo) if self.state is None else self.state
        found = {
            part: self.find(f"{demo}/obs/agent/{part}") or self.find(f"{demo}/obs/extra/{part}")
            for part in names
        }
        for part, dataset in found.items():
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(
                    f"{self.path}: {demo} has no state part {part!r}, it has "
                    f"{', '.join(self._parts(demo)) or 'none'}. Change `state`, or replay the "
                    "demonstrations with observations (`e0 collect`)."
                )
            if not _is_numeric(dataset):
                raise ValueError(
                    f"{self.path}: {dataset.name}: expected numbers for each step as state part "
                    f"{part!r}, got {dataset.shape} of {dataset.dtype}. Change `state`."
                )
        return found

    def _cameras(self, demo: str) -> list[str]:
        sensors = members(self.find(f"{demo}/obs/sensor_data"))
        return [name for name, camera in sensors.items() if "rgb" in members(camera)]

    def _parts(self, demo: str) -> list[str]:
        groups = [members(self.find(f"{demo}/obs/{group}")) for group in ("agent", "extra")]
        return list(dict.fromkeys(k for g in groups for k, v in g.items() if _is_numeric(v)))


def _is_numeric(member: h5py.Dataset | h5py.Group) -> bool:
    return isinstance(member, h5py.Dataset) and bool(member.shape) and member.dtype.kind in "biuf"


def _number(name: str) -> int:
    digits = name.removeprefix("traj_")
    return int(digits) if digits.isdigit() else -1
