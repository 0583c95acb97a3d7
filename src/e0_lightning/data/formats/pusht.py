"""Demonstrations of PushT: a disc pushes a T-shaped block onto its outline, seen from above."""

from __future__ import annotations

from functools import cached_property

import h5py
import numpy as np

from e0_lightning.data.formats.base import Array, DemoReader, Floats
from e0_lightning.data.formats.frames import Frames, frame_size
from e0_lightning.data.formats.hdf5 import find, members
from e0_lightning.types import PolicySpec, ViewSize

INSTRUCTION = "push the T"

CONTROL_MODE = "point_position"
"""Actions are positions that the disc moves towards, pixels of the 512 by 512 workspace, at 10 Hz:
x to the right, y downwards."""

VIEW, IMAGE = "top", "top_image"
"""The view, and the data set of its frames."""

STATE = {"agent_pos": 2, "block_pose": 3, "block_keypoints": 16}
"""State parts: centre of the disc; position (pixels) and angle (radians) of the block; corners of
the block. The angle jumps by 2π where it wraps, the corners are continuous."""

CORNERS = np.array(
    [(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)], float
)
"""Corners of the two rectangles of the T in the frame of the block, pixels, in the order of
gym-pusht's keypoints."""


def block_keypoints(pose: Array) -> Floats:
    """Corners of the block in the workspace.

    Args:
        pose: Position in pixels and angle in radians, ``(n, 3)``.

    Returns:
        ``(n, 16)`` float32: x and y of eight corners, pixels.
    """
    position, angle = pose[:, None, :2].astype(float), pose[:, 2, None].astype(float)
    x, y = CORNERS.T
    rotated = np.stack(
        [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=-1
    )
    keypoints: Floats = (position + rotated).reshape(len(pose), -1).astype(np.float32)
    return keypoints


class PushTReader(DemoReader):
    """PushT in the layout of robomimic: ``data/demo_<i>`` with ``actions`` and ``obs``.

    The observation is the one before its action. The corners of the block are computed from its
    pose.
    """

    format = "PushT"
    control_mode = CONTROL_MODE

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether the first demonstration observes ``agent_pos`` and ``block_pose``."""
        demos = members(file.get("data"))
        observed = members(find(demos[next(iter(demos))], "obs")) if demos else {}
        return {"agent_pos", "block_pose"} <= observed.keys()

    @property
    def rate(self) -> float:
        """Control frequency of gym-pusht."""
        return 10

    @cached_property
    def names(self) -> list[str]:
        """Demonstrations by number."""
        return sorted(self.file["data"], key=lambda name: int(name.removeprefix("demo_")))

    def read_instruction(self, demo: str) -> str:
        """The same instruction for every demonstration."""
        return INSTRUCTION

    def lengths(self) -> dict[str, int]:
        """Every demonstration, as long as its actions."""
        lengths = {}
        for name in self.names:
            steps = len(self._actions(name))
            read = [self._pose(name), self._position(name), *self.image_dataset(name).values()]
            if unequal := [dataset for dataset in read if len(dataset) != steps]:
                raise ValueError(
                    f"{self.path}: {unequal[0].name}: expected one observation for each of the "
                    f"{steps} actions of {name}, got {len(unequal[0])}. Convert the file again."
                )
            lengths[name] = steps
        return lengths

    def read_actions(self, demo: str, start: int, stop: int) -> Array:
        """Target positions of the disc."""
        return self.rows(self._actions(demo), start, stop)

    def read_states(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """Positions of the disc, poses of the block and its corners."""
        pose = self.rows(self._pose(demo), start, stop)
        position = self.rows(self._position(demo), start, stop)
        return {
            "agent_pos": position,
            "block_pose": pose,
            "block_keypoints": block_keypoints(pose),
        }

    def read_images(self, demo: str, start: int, stop: int) -> dict[str, Frames]:
        """Frames as they are stored."""
        images = self.image_dataset(demo).items()
        return {view: self.frames(dataset, start, stop) for view, dataset in images}

    def image_dataset(self, demo: str) -> dict[str, h5py.Dataset]:
        """The frames of the view ``top``."""
        views = [VIEW] if self.views is None else self.views
        if unknown := [view for view in views if view != VIEW]:
            raise ValueError(
                f"{self.path}: expected the view {VIEW!r}, got {unknown[0]!r}. Change `views`."
            )
        return {view: self._dataset(demo, f"obs/{IMAGE}") for view in views}

    def read_spec(self, demo: str) -> PolicySpec:
        """The spec of PushT, with the views and state parts that are read."""
        parts = list(STATE) if self.state is None else self.state
        if unknown := [part for part in parts if part not in STATE]:
            raise ValueError(
                f"{self.path}: expected state parts among {', '.join(STATE)}, got {unknown[0]!r}. "
                "Change `state`."
            )
        images = self.image_dataset(demo)
        return PolicySpec(
            views={view: ViewSize(*frame_size(dataset)) for view, dataset in images.items()},
            state={part: STATE[part] for part in parts},
            action_dim=2,
            control_mode=CONTROL_MODE,
        )

    def _actions(self, demo: str) -> h5py.Dataset:
        return self._vectors(demo, "actions", 2)

    def _position(self, demo: str) -> h5py.Dataset:
        return self._vectors(demo, "obs/agent_pos", 2)

    def _pose(self, demo: str) -> h5py.Dataset:
        return self._vectors(demo, "obs/block_pose", 3)

    def _vectors(self, demo: str, key: str, dims: int) -> h5py.Dataset:
        found = self._dataset(demo, key)
        if not found.shape or found.shape[1:] != (dims,):
            raise ValueError(
                f"{self.path}: data/{demo}/{key}: expected (T, {dims}), got {found.shape}. Convert "
                "the file again."
            )
        return found

    def _dataset(self, demo: str, key: str) -> h5py.Dataset:
        found = self.find(f"data/{demo}/{key}")
        if not isinstance(found, h5py.Dataset):
            raise ValueError(
                f"{self.path}: data/{demo}/{key}: expected a data set, got "
                f"{'nothing' if found is None else 'a group'}. Convert the file again."
            )
        return found
