"""Demonstrations as ManiSkill 3 records them: ``<name>.h5`` with a sidecar ``<name>.json``."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, ClassVar

import fsspec
import h5py
import numpy as np

from e0_lightning.data.formats.base import DemoInfo, DemoReader, Floats, Pixels
from e0_lightning.types import PolicySpec

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
}
"""Task name to instruction: the files themselves hold no language."""


class ManiSkillReader(DemoReader):
    """One ManiSkill 3 recording.

    A trajectory of T actions has T + 1 observations, the t-th seen before the t-th action. It is
    read to its end: the flags ``terminated`` and ``truncated`` do not cut it. Episodes that the
    sidecar marks as unsuccessful are left out; episodes without a mark are kept.
    """

    format: ClassVar[str] = "ManiSkill 3"

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether the groups are called ``traj_0``, ``traj_1`` and so on."""
        return len(file) > 0 and all(name.startswith("traj_") for name in file)

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """The JSON beside the file, its episodes checked against the groups of the file."""
        path = self.path.rsplit(".", 1)[0] + ".json"
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
                f"{path}: broken sidecar ({type(error).__name__}: {error}); JSON with env_info."
                "env_id and episodes[].episode_id is wanted. Copy or record it again."
            ) from error
        if odd := sorted(set(names) ^ set(self.file), key=_number):
            here = "the sidecar" if odd[0] in names else "the HDF5 file"
            raise ValueError(
                f"{self.path}: sidecar and file disagree on {len(odd)} episodes: {odd[0]} is "
                f"only in {here}. Use the JSON that was written with this file."
            )
        return sidecar

    @property
    def episodes(self) -> dict[str, dict[str, Any]]:
        """Trajectory name to what the sidecar says of it, in numeric order."""
        episodes = {f"traj_{e['episode_id']}": e for e in self.sidecar["episodes"]}
        return {name: episodes[name] for name in sorted(episodes, key=_number)}

    @property
    def task(self) -> str:
        """The environment's id."""
        return str(self.sidecar["env_info"]["env_id"])

    def instruction(self, demo: str) -> str:
        """The task's sentence in :data:`INSTRUCTIONS`."""
        if self.task not in INSTRUCTIONS:
            raise ValueError(
                f"{self.path}: no instruction is known for {self.task}. Give one with the demos: "
                "{path: …, instruction: …}. Known tasks: " + ", ".join(INSTRUCTIONS) + "."
            )
        return INSTRUCTIONS[self.task]

    def failed(self) -> list[str]:
        """Trajectories whose sidecar entry says ``success: false``."""
        return [name for name, e in self.episodes.items() if not e.get("success", True)]

    @cached_property
    def spec(self) -> PolicySpec:
        """Headers of the first usable trajectory, control mode from the sidecar."""
        modes = {e.get("control_mode") for e in self.sidecar["episodes"]}
        if len(modes) != 1 or None in modes:
            raise ValueError(
                f"{self.path}: its episodes have control modes {sorted(map(str, modes))}; one is "
                "wanted. Replay them with `mani_skill.trajectory.replay_trajectory -c <mode>`."
            )
        usable = set(self.episodes) - set(self.failed())
        if not usable:
            raise ValueError(
                f"{self.path}: none of its {len(self.episodes)} episodes succeeded; "
                "at least one is wanted. Collect more."
            )
        return self._promise(min(usable, key=_number), modes.pop())

    def _promise(self, name: str, control_mode: str) -> PolicySpec:
        views, state, actions = self._views(name), self._state(name), self._actions(name)
        shapes = {view: pixels.shape[1:] for view, pixels in views.items()}
        for view, (height, width, channels) in shapes.items():
            if views[view].dtype != np.uint8 or channels != 3:
                raise ValueError(
                    f"{self.path}: {views[view].name} is {channels} channels of "
                    f"{views[view].dtype}; RGB images of uint8, 0 to 255, are wanted. Replay with "
                    "`-o rgb`."
                )
            if height != width:
                raise ValueError(
                    f"{self.path}: {name}/{view} is {height} by {width} pixels; square images "
                    "are wanted. Replay with a square sensor (sensor_configs: width, height)."
                )
        return PolicySpec(
            views={view: shape[0] for view, shape in shapes.items()},
            state={part: int(np.prod(d.shape[1:], dtype=int)) for part, d in state.items()},
            action_dim=actions.shape[1],
            control_mode=control_mode,
        )

    def demos(self) -> list[DemoInfo]:
        """Every successful trajectory, in numeric order."""
        whole, failed, demos = self.spec, set(self.failed()), []
        for name, episode in self.episodes.items():
            if name in failed:
                continue
            promise = self._promise(name, whole.control_mode)
            whole.check_compatible(promise, f"{self.path} as a whole", f"its {name}")
            steps, wanted = len(self._actions(name)), episode.get("elapsed_steps")
            if wanted is not None and steps != wanted:
                raise ValueError(
                    f"{self.path}: {name}/actions has {steps} steps, its sidecar says "
                    f"elapsed_steps {wanted}. Use the JSON that was written with this file."
                )
            views = self._views(name).values()
            short = [d.name for d in views if len(d) < steps]
            short += [d.name for d in self._state(name).values() if len(d) < steps]
            if short:
                raise ValueError(
                    f"{self.path}: {short[0]} is shorter than the {steps} actions of {name}; "
                    "one observation before each is wanted. Replay the file again."
                )
            rows = [pixels.chunks[0] for pixels in self._views(name).values() if pixels.chunks]
            demos.append(DemoInfo(name, steps, max(rows, default=1)))
        return demos

    def actions(self, demo: str, start: int, stop: int) -> Floats:
        """Actions as the controller of the recording takes them."""
        values = self.rows(self._actions(demo), start, stop).astype(np.float32)
        return self.finite(values, "actions", demo, start)

    def states(self, demo: str, start: int, stop: int) -> Floats:
        """The named parts side by side; flags and scalars count as one dimension."""
        steps = stop - start
        parts = [self.rows(d, start, stop).reshape(steps, -1) for d in self._state(demo).values()]
        values = np.concatenate([np.zeros((steps, 0)), *parts], axis=1).astype(np.float32)
        return self.finite(values, "state", demo, start)

    def images(self, demo: str, start: int, stop: int) -> dict[str, Pixels]:
        """Images as rendered: ManiSkill's are upright."""
        return {view: self.rows(pixels, start, stop) for view, pixels in self._views(demo).items()}

    def intrinsics(self, demo: str) -> dict[str, Floats]:
        """``intrinsic_cv`` of each camera, which stays the same within a trajectory."""
        found = {}
        for view in _cameras(self.file[demo]) if self.views is None else self.views:
            matrix = self.file.get(f"{demo}/obs/sensor_param/{view}/intrinsic_cv")
            if matrix is not None:
                found[view] = matrix[()].reshape(-1, 3, 3)[0].astype(np.float32)
        return found

    def stored(self, demo: str) -> dict[str, h5py.Dataset]:
        """One data set for each view; its chunks differ with its length."""
        return self._views(demo)

    def _actions(self, demo: str) -> h5py.Dataset:
        actions = self.file[demo].get("actions")
        if isinstance(actions, h5py.Group):
            raise ValueError(
                f"{self.path}: {demo}/actions is a group of agents ({', '.join(actions)}); "
                "the actions of one robot are wanted. Recordings of several cannot be read."
            )
        if actions is None or actions.ndim != 2 or len(actions) == 0:
            found = "nothing" if actions is None else f"shape {actions.shape}"
            raise ValueError(
                f"{self.path}: {demo}/actions: found {found}, wanted (T, D). Record it again."
            )
        return actions

    def _views(self, demo: str) -> dict[str, h5py.Dataset]:
        """The wanted cameras' images."""
        wanted = _cameras(self.file[demo]) if self.views is None else self.views
        found = {view: self.file.get(f"{demo}/obs/sensor_data/{view}/rgb") for view in wanted}
        missing = [view for view, pixels in found.items() if pixels is None]
        if missing and not (there := _cameras(self.file[demo])):
            raise ValueError(
                f"{self.path}: {demo} has no images at all, camera {missing[0]!r} is wanted: this "
                "is a recording of states. Replay it to RGB (`python -m mani_skill.trajectory."
                "replay_trajectory --traj-path … -o rgb --save-traj`) or use `e0 collect`."
            )
        if missing:
            raise ValueError(
                f"{self.path}: {demo} has no camera {missing[0]!r}; there are: "
                f"{', '.join(there)}. Change `views`, or replay with that camera."
            )
        return found

    def _state(self, demo: str) -> dict[str, h5py.Dataset]:
        """The wanted state parts, found in ``obs/agent`` before ``obs/extra``."""
        wanted = _parts(self.file[demo]) if self.state is None else self.state
        found = {
            part: self.file.get(f"{demo}/obs/agent/{part}")
            or self.file.get(f"{demo}/obs/extra/{part}")
            for part in wanted
        }
        missing = [part for part, values in found.items() if not isinstance(values, h5py.Dataset)]
        if missing:
            raise ValueError(
                f"{self.path}: {demo} has no state part {missing[0]!r}; there are: "
                f"{', '.join(_parts(self.file[demo])) or 'none'}. Change `state`, or replay the "
                "demos with observations (`e0 collect`)."
            )
        return found


def _cameras(trajectory: h5py.Group) -> list[str]:
    sensors = trajectory.get("obs/sensor_data", {})
    return [name for name, camera in sensors.items() if "rgb" in camera]


def _parts(trajectory: h5py.Group) -> list[str]:
    places = [trajectory.get(f"obs/{place}", {}) for place in ("agent", "extra")]
    found = [k for place in places for k, v in place.items() if isinstance(v, h5py.Dataset)]
    return list(dict.fromkeys(found))


def _number(name: str) -> int:
    digits = name.removeprefix("traj_")
    return int(digits) if digits.isdigit() else -1
