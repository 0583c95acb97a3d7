"""Demonstrations in groups ``data/demo_<i>``: robomimic's format, and LIBERO's of either kind."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import h5py
import numpy as np

from e0_lightning.data.formats.base import Array, DemoReader, Floats
from e0_lightning.data.formats.encoded import find_encoding
from e0_lightning.data.formats.frames import Frames, flip, frame_size, is_colored, is_vector
from e0_lightning.data.formats.hdf5 import find, members
from e0_lightning.data.formats.libero import (
    CAMERAS,
    Camera,
    DemoLayout,
    camera,
    control_mode,
    control_rate,
    find_layout,
    read_instruction,
    sentence,
)
from e0_lightning.geometry import camera_matrix
from e0_lightning.types import MIRRORED, PolicySpec, ViewSize

IMAGE = "_image"
"""Suffix of robomimic's data sets of images, which are stored upright."""


class RobomimicReader(DemoReader):
    """An HDF5 file of demonstrations of robomimic's or LIBERO's layout.

    LIBERO's official files record the observation after its action, so the first action of each
    demonstration has no observation and is dropped; LIBERO regenerated without no-ops and robomimic
    record the observation before the action. The content of the file decides which it is.
    Demonstrations are read in the order of their numbers, which may have gaps. MimicGen, RoboCasa
    and Isaac Lab write robomimic's layout.
    """

    format = "LIBERO or robomimic"

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether there is a group ``data`` of groups ``demo_0``, ``demo_1`` and so on."""
        data = file.get("data")
        return isinstance(data, h5py.Group) and any(name.startswith("demo_") for name in data)

    @cached_property
    def layout(self) -> DemoLayout:
        """Layout of this file, from its first demonstration."""
        demo = self.names[0]
        group = self._demo(demo)
        if "obs" not in group or "actions" not in group:
            raise ValueError(
                f"{self.path}: data/{demo}: expected `actions` and `obs`, got "
                f"{', '.join(group) or 'nothing'}. Extract observations with robomimic's "
                "dataset_states_to_obs."
            )
        return find_layout(self.file, demo) or _robomimic_layout(self.file, demo)

    @cached_property
    def names(self) -> list[str]:
        """Demonstrations by number, failures included."""
        return sorted((name for name in self.file["data"] if name.startswith("demo_")), key=_number)

    @property
    def task(self) -> str:
        """The file's name without ending, which is LIBERO's name of the task."""
        return PurePosixPath(self.path).stem.removesuffix("_demo")

    @property
    def rate(self) -> float:
        """Control frequency in ``env_args``."""
        return control_rate(self.file["data"])

    def failed(self) -> list[str]:
        """Demonstrations whose attribute ``success``, which Isaac Lab writes, is false."""
        return [name for name in self.names if not self._demo(name).attrs.get("success", True)]

    def splits(self) -> dict[str, list[str]]:
        """The lists of demonstrations ``mask/train`` and ``mask/valid``."""
        found = {name: self.find(f"mask/{name}") for name in ("train", "valid")}
        return {
            name: [each.decode() if isinstance(each, bytes) else str(each) for each in names[()]]
            for name, names in found.items()
            if isinstance(names, h5py.Dataset) and names.shape
        }

    def read_instruction(self, demo: str) -> str:
        """The instruction of the demonstration, else of the file's name, else of the file.

        RoboCasa gives each demonstration its own (attribute ``ep_meta``). A file name
        ``<task>_demo.hdf5`` comes before the file's attributes, because LIBERO evaluates with it;
        the instruction in the attributes differs from it for half of the tasks.
        """
        found = _own_instruction(self._demo(demo)) or read_instruction(self.file["data"])
        stem = PurePosixPath(self.path).stem
        if stem.endswith("_demo") and "_" in self.task and self.layout.fields_of_view:
            found = sentence(self.task)
        if not found:
            raise ValueError(
                f"{self.path}: there is no instruction in its attributes (data: problem_info; "
                f"data/{demo}: ep_meta) or its name (<task>_demo.hdf5). Give one with the "
                "demonstrations: {path: …, instruction: …}."
            )
        return found

    def lengths(self) -> dict[str, int]:
        """Every successful demonstration, without the actions that no observation precedes."""
        lengths, lag, failed = {}, self.layout.lag, set(self.failed())
        for name in self.names:
            if name in failed:
                continue
            actions = self._actions(name)
            read = [*self.image_dataset(name).values(), *self._state(name).values()]
            if unequal := [d.name for d in read if d.shape[:1] != actions.shape[:1]]:
                raise ValueError(
                    f"{self.path}: {unequal[0]} and the {len(actions)} actions of {name} differ in "
                    "length; expected one observation for each. Copy or record the file again."
                )
            if len(actions) <= lag:
                raise ValueError(
                    f"{self.path}: data/{name}/actions: expected more than {lag} steps, got "
                    f"{len(actions)}. Remove that demonstration."
                )
            lengths[name] = len(actions) - lag
        return lengths

    def read_spec(self, demo: str) -> PolicySpec:
        """Headers of a demonstration."""
        images, state = self.image_dataset(demo), self._state(demo)
        if self.layout.control_mode is None:
            raise ValueError(
                f"{self.path}: expected a controller in its attributes (data: env_args, env_kwargs."
                "controller_configs.type), got none. Extract it again with robomimic, write that "
                "attribute, or read the file with a key map that has a control_mode."
            )
        return PolicySpec(
            views={view: ViewSize(*frame_size(dataset)) for view, dataset in images.items()},
            state={part: int(np.prod(d.shape[1:], dtype=int)) for part, d in state.items()},
            action_dim=self._actions(demo).shape[1],
            control_mode=self.layout.control_mode,
            render_quality=self.layout.render_quality,
        )

    def read_actions(self, demo: str, start: int, stop: int) -> Array:
        """Actions that follow the observations of these steps."""
        return self.rows(self._actions(demo), start + self.layout.lag, stop + self.layout.lag)

    def read_states(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """State parts as they are stored."""
        return {part: self.rows(d, start, stop) for part, d in self._state(demo).items()}

    def read_images(self, demo: str, start: int, stop: int) -> dict[str, Frames]:
        """Images, flipped vertically where they are stored upside down."""
        images = {}
        for view, dataset in self.image_dataset(demo).items():
            frames = self.frames(dataset, start, stop)
            frames = flip(frames, "vertical") if self.layout.upside_down else frames
            images[view] = flip(frames, "horizontal") if view.endswith(MIRRORED) else frames
        return images

    def read_intrinsics(self, demo: str) -> dict[str, Floats]:
        """Camera matrices from the demonstration's own model, for views that are not mirrored."""
        found, cameras = {}, self.cameras(demo)
        for view, dataset in self.image_dataset(demo).items():
            known = self.layout.fields_of_view.get(view)
            fov = cameras[view].fov if view in cameras else known
            if fov is not None:
                found[view] = camera_matrix(fov, *frame_size(dataset))
        return found

    def cameras(self, demo: str) -> dict[str, Camera]:
        """Cameras of the views in the demonstration's MJCF; none where it has no model.

        Raises:
            ValueError: If that model cannot be parsed or lacks one of them.
        """
        model = self._demo(demo).attrs.get("model_file")
        if model is None:
            return {}
        text = model.decode() if isinstance(model, bytes) else str(model)
        views = [view for view in self.spec.views if not view.endswith(MIRRORED)]
        try:
            return {view: camera(text, CAMERAS.get(view, view)) for view in views}
        except ValueError as error:
            raise ValueError(
                f"{self.path}: data/{demo}, attribute model_file: {error}. Record or copy that "
                "demonstration again, or delete the attribute to go without its cameras."
            ) from error

    def image_dataset(self, demo: str) -> dict[str, h5py.Dataset]:
        """The images of each view; their chunks differ with their length."""
        known = self.layout.views
        views = list(known) if self.views is None else self.views
        names = {view: known.get(view.removesuffix(MIRRORED), "") for view in views}
        return {
            view: self._observation(demo, "view", view, name, list(known))
            for view, name in names.items()
        }

    def _demo(self, demo: str) -> h5py.Group:
        group = self.find(f"data/{demo}")
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{self.path}: data/{demo}: expected a group, got a data set.")
        return group

    def _actions(self, demo: str) -> h5py.Dataset:
        actions = self.find(f"data/{demo}/actions")
        if (
            not isinstance(actions, h5py.Dataset)
            or len(actions.shape or ()) != 2
            or not actions.size
        ):
            got = "nothing" if actions is None else getattr(actions, "shape", "a group")
            raise ValueError(
                f"{self.path}: data/{demo}/actions: expected (T, D), got {got}. Copy it again."
            )
        return actions

    def _state(self, demo: str) -> dict[str, h5py.Dataset]:
        names = self.layout.parts if self.state is None else self.state
        found = {
            part: self._observation(demo, "state part", part, part, self.layout.parts)
            for part in names
        }
        for part, dataset in found.items():
            if not dataset.shape or dataset.dtype.kind not in "biuf" or find_encoding(dataset):
                raise ValueError(
                    f"{self.path}: {dataset.name}: expected numbers for each step as state part "
                    f"{part!r}, got {dataset.shape} of {dataset.dtype}. Change `state`: the file "
                    f"has {', '.join(self.layout.parts) or 'none'}."
                )
        return found

    def _observation(
        self, demo: str, kind: str, label: str, name: str, available: list[str]
    ) -> h5py.Dataset:
        found = self.find(f"data/{demo}/obs/{name}") if name else None
        if not isinstance(found, h5py.Dataset):
            raise ValueError(
                f"{self.path}: data/{demo}/obs has no {kind} {label!r}; the file has: "
                f"{', '.join(available) or 'none of the kind'}. Change `views` or `state`."
            )
        return found


def _robomimic_layout(file: h5py.File, demo: str) -> DemoLayout:
    group = file[f"data/{demo}"]
    observations = {k: v for k, v in members(group["obs"]).items() if isinstance(v, h5py.Dataset)}
    views = {k: k for k, v in observations.items() if is_colored(v)}
    views |= {k.removesuffix(IMAGE): k for k in observations if k.endswith(IMAGE)}
    named = {name for view, name in views.items() if view != name}
    actions = find(group, "actions")
    steps = len(actions) if isinstance(actions, h5py.Dataset) and actions.shape else 0
    return DemoLayout(
        format="robomimic",
        views={view: name for view, name in views.items() if view != name or name not in named},
        parts=[k for k, v in observations.items() if k not in named and is_vector(v, steps)],
        lag=0,
        upside_down=False,
        control_mode=control_mode(file["data"]) or _isaac_control_mode(file["data"]),
    )


ISAAC_CONTROL_MODES = {"IK-Rel": "ee_pose_delta", "IK-Abs": "ee_pose_absolute"}
"""Part of the name of an Isaac Lab environment to its controller; the files hold no other."""


def _isaac_control_mode(data: h5py.Group) -> str | None:
    try:
        name = str(json.loads(data.attrs["env_args"])["env_name"])
    except (KeyError, TypeError, json.JSONDecodeError):
        return None
    return next((mode for part, mode in ISAAC_CONTROL_MODES.items() if f"-{part}-" in name), None)


def _own_instruction(demo: h5py.Group) -> str | None:
    try:
        meta: dict[str, Any] = json.loads(demo.attrs["ep_meta"])
        return str(meta["lang"]).strip() or None
    except (KeyError, TypeError, json.JSONDecodeError):
        return None


def _number(name: str) -> int:
    digits = name.removeprefix("demo_")
    return int(digits) if digits.isdigit() else -1
