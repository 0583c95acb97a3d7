"""Demonstrations in groups ``data/demo_<i>``: LIBERO's of either kind, and robomimic's."""

from __future__ import annotations

from functools import cached_property
from pathlib import PurePosixPath
from typing import ClassVar

import h5py
import numpy as np

from e0_lightning.data.formats.base import DemoInfo, DemoReader, Floats, Pixels, camera_matrix
from e0_lightning.data.formats.libero import (
    CAMERAS,
    Camera,
    Layout,
    camera,
    control_mode,
    libero_layout,
    sentence,
    told,
)
from e0_lightning.types import MIRRORED, PolicySpec

IMAGE = "_image"
"""How robomimic ends the name of a camera's images, which it stores upright."""


class RobomimicReader(DemoReader):
    """One HDF5 file of demonstrations of one task.

    What pairs with what is found by looking into the file: LIBERO's official files record the
    observation after its action, so each demonstration loses its first action, which no one saw
    the reason for; LIBERO regenerated without no-ops and robomimic's own record it before.
    Demonstrations are read in the order of their numbers, which may have gaps.
    """

    format: ClassVar[str] = "LIBERO or robomimic"

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether there is a group ``data`` of groups ``demo_0``, ``demo_1`` and so on."""
        data = file.get("data")
        return isinstance(data, h5py.Group) and any(name.startswith("demo_") for name in data)

    @cached_property
    def layout(self) -> Layout:
        """How this file is to be read, from its first demonstration."""
        demo = self.names[0]
        group = self.file[f"data/{demo}"]
        if "obs" not in group or "actions" not in group:
            raise ValueError(
                f"{self.path}: data/{demo} holds {', '.join(group) or 'nothing'}; `actions` and "
                "`obs` are wanted. Extract observations with robomimic's dataset_states_to_obs."
            )
        return libero_layout(self.file, demo) or _robomimic_layout(self.file, demo)

    @cached_property
    def names(self) -> list[str]:
        """Demonstrations by number."""
        return sorted((name for name in self.file["data"] if name.startswith("demo_")), key=_number)

    @property
    def task(self) -> str:
        """The file's name without ending, which is LIBERO's name of the task."""
        return PurePosixPath(self.path).stem.removesuffix("_demo")

    def failed(self) -> list[str]:
        """None: these files hold successes only."""
        return []

    def instruction(self, demo: str) -> str:
        """The sentence in the name of a file ``<task>_demo.hdf5``, else the one it carries.

        The name goes first because evaluations of LIBERO ask with it; the sentence in the
        attributes is another one for half of the tasks.
        """
        stem = PurePosixPath(self.path).stem
        found = told(self.file["data"])
        if stem.endswith("_demo") and "_" in self.task and self.layout.fields:
            found = sentence(self.task)
        if not found:
            raise ValueError(
                f"{self.path}: neither its attributes (data: problem_info) nor its name "
                "(<task>_demo.hdf5) hold an instruction. Give one with the demos: "
                "{path: …, instruction: …}."
            )
        return found

    @cached_property
    def spec(self) -> PolicySpec:
        """Headers of the first demonstration."""
        return self._promise(self.names[0])

    def demos(self) -> list[DemoInfo]:
        """Every demonstration, without the actions that no observation precedes."""
        whole, demos = self.spec, []
        for name in self.names:
            whole.check_compatible(self._promise(name), f"{self.path} as a whole", f"its {name}")
            actions, views, state = self._actions(name), self._views(name), self._state(name)
            read = [*views.values(), *state.values()]
            if short := [d.name for d in read if len(d) != len(actions)]:
                raise ValueError(
                    f"{self.path}: {short[0]} and the {len(actions)} actions of {name} differ in "
                    "length; one observation for each is wanted. Copy or record the file again."
                )
            if len(actions) <= self.layout.lag:
                raise ValueError(
                    f"{self.path}: data/{name}/actions has {len(actions)} steps, more than "
                    f"{self.layout.lag} are wanted. Remove that demonstration."
                )
            rows = [pixels.chunks[0] for pixels in self._views(name).values() if pixels.chunks]
            demos.append(DemoInfo(name, len(actions) - self.layout.lag, max(rows, default=1)))
        return demos

    def actions(self, demo: str, start: int, stop: int) -> Floats:
        """Actions that follow the observations of these steps."""
        lag = self.layout.lag
        values = self.rows(self._actions(demo), start + lag, stop + lag).astype(np.float32)
        return self.finite(values, "actions", demo, start + lag)

    def states(self, demo: str, start: int, stop: int) -> Floats:
        """The named parts side by side."""
        steps, read = stop - start, self._state(demo).values()
        parts = [self.rows(d, start, stop).reshape(steps, -1) for d in read]
        laid = np.concatenate([np.zeros((steps, 0)), *parts], axis=1).astype(np.float32)
        return self.finite(laid, "obs", demo, start)

    def images(self, demo: str, start: int, stop: int) -> dict[str, Pixels]:
        """Images turned upright by a vertical flip, which keeps left and right apart."""
        found = {}
        for view, pixels in self._views(demo).items():
            rows = self.rows(pixels, start, stop)
            rows = rows[:, ::-1] if self.layout.upside_down else rows
            found[view] = rows[:, :, ::-1] if view.endswith(MIRRORED) else rows
        return found

    @cached_property
    def _intrinsics(self) -> dict[str, dict[str, Floats]]:
        # A model takes far longer to parse than a window to read.
        return {}

    def intrinsics(self, demo: str) -> dict[str, Floats]:
        """Camera matrices from the demonstration's own model, for views that are not mirrored."""
        if demo not in self._intrinsics:
            self._intrinsics[demo] = self._matrices(demo)
        return self._intrinsics[demo]

    def _matrices(self, demo: str) -> dict[str, Floats]:
        found, cameras = {}, self.cameras(demo)
        for view, side in self.spec.views.items():
            angle = cameras[view].field if view in cameras else self.layout.fields.get(view)
            if angle is not None:
                found[view] = camera_matrix(angle, side)
        return found

    def cameras(self, demo: str) -> dict[str, Camera]:
        """The wanted views' cameras in the demonstration's MJCF; none where it carries no model.

        Raises:
            ValueError: If that model cannot be parsed or lacks one of them.
        """
        model = self.file[f"data/{demo}"].attrs.get("model_file")
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

    def stored(self, demo: str) -> dict[str, h5py.Dataset]:
        """One data set for each view; its chunks differ with its length."""
        return self._views(demo)

    def _promise(self, demo: str) -> PolicySpec:
        shapes = {view: pixels.shape[1:] for view, pixels in self._views(demo).items()}
        for pixels in self._views(demo).values():
            if pixels.dtype != np.uint8:
                raise ValueError(
                    f"{self.path}: {pixels.name} is of {pixels.dtype}; images of uint8, 0 to 255, "
                    "are wanted. Write them so."
                )
        for view, shape in shapes.items():
            if len(shape) != 3 or shape[0] != shape[1] or shape[2] != 3:
                raise ValueError(
                    f"{self.path}: {demo}/obs, view {view}: found shape {shape} a step; square "
                    "RGB images are wanted. Render the file again with a square camera."
                )
        state = {part: int(np.prod(d.shape[1:])) for part, d in self._state(demo).items()}
        if self.layout.control_mode is None:
            raise ValueError(
                f"{self.path}: its attributes name no controller (data: env_args, env_kwargs."
                "controller_configs.type); one is wanted. Extract it again with robomimic."
            )
        return PolicySpec(
            views={view: shape[0] for view, shape in shapes.items()},
            state=state,
            action_dim=self._actions(demo).shape[1],
            control_mode=self.layout.control_mode,
        )

    def _actions(self, demo: str) -> h5py.Dataset:
        actions = self.file.get(f"data/{demo}/actions")
        if not isinstance(actions, h5py.Dataset) or actions.ndim != 2 or len(actions) == 0:
            found = getattr(actions, "shape", "nothing")
            raise ValueError(
                f"{self.path}: data/{demo}/actions: found {found}, wanted (T, D). Copy it again."
            )
        return actions

    def _views(self, demo: str) -> dict[str, h5py.Dataset]:
        known = self.layout.views
        wanted = list(known) if self.views is None else self.views
        names = {view: known.get(view.removesuffix(MIRRORED), "") for view in wanted}
        return {view: self._find(demo, view, name, list(known)) for view, name in names.items()}

    def _state(self, demo: str) -> dict[str, h5py.Dataset]:
        wanted = self.layout.parts if self.state is None else self.state
        return {part: self._find(demo, part, part, self.layout.parts) for part in wanted}

    def _find(self, demo: str, asked: str, name: str, there: list[str]) -> h5py.Dataset:
        found = self.file.get(f"data/{demo}/obs/{name}") if name else None
        if not isinstance(found, h5py.Dataset):
            raise ValueError(
                f"{self.path}: data/{demo}/obs has no {asked!r}; the file has: "
                f"{', '.join(there) or 'none of the kind'}. Change `views` or `state`."
            )
        return found


def _robomimic_layout(file: h5py.File, demo: str) -> Layout:
    observations = file[f"data/{demo}/obs"]
    images = [name for name, values in observations.items() if values.ndim == 4]
    return Layout(
        format="robomimic",
        views={name.removesuffix(IMAGE): name for name in images if name.endswith(IMAGE)},
        parts=[name for name, values in observations.items() if values.ndim <= 2],
        lag=0,
        upside_down=False,
        control_mode=control_mode(file["data"]),
    )


def _number(name: str) -> int:
    digits = name.removeprefix("demo_")
    return int(digits) if digits.isdigit() else -1
