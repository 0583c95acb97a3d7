"""Demonstrations as VLABench generates them: ``<task>/data_<i>.hdf5``, most with one episode."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import PurePosixPath
from typing import ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.base import DemoInfo, DemoReader, Floats, Pixels, camera_matrix
from e0_lightning.data.formats.gzip_chunks import read
from e0_lightning.types import PolicySpec

CONTROL_MODE = "ee_pose_absolute"
"""Where the gripper shall be: position from the robot's base along the world's axes, metres; turns
about the world's fixed axes x, y, z, radians; 1 open, 0 closed. At 10 Hz."""

BASE = np.array([0.0, -0.4, 0.78])
"""The robot's place in the world, metres. VLABench takes positions from there, but does not turn
them by the base's yaw."""

VIEWS = ("right", "left", "front", "wrist")
"""The cameras in the order of their images, as VLABench's own openpi client names them."""

POSE = {"ee_pos": 3, "ee_euler": 3, "gripper_open": 1}
"""State parts that make up VLABench's state of 7, in its order; the last is 1 for an open gripper,
as in the actions, where VLABench's own flag is 1 for a closed one."""

JOINTS = ("q_state", "q_velocity", "q_acceleration")
"""State parts that are stored as they are."""

FIELD_OF_VIEW = 45.0
"""Degrees between opposite edges where a camera is given no other angle: MuJoCo's default. Neither
VLABench's base/camera.xml nor the wrist's camera in its franka_emika_panda/panda.xml gives one; the
matrices that the fork 1mather/vlabench took from the compiled model (base/camera_matrices.json) are
all of 45°."""

# VLABench's configs/camera_config.json moves the front camera of some tasks. Those of 45° below are
# the tasks there that keep the angle, and the other primitive ones of its evaluation
# (configs/evaluation/dim2task.json and tracks).
_FRONT: dict[float, str] = {
    20.0: "add_condiment add_condiment_spatial add_condiment_common_sense add_condiment_semantic",
    25.0: "book_rearrange cluster_book rearrange_tube select_ingredient set_dining_table "
    "set_dining_left_hand set_dining_chopstick set_dining_chopstick_left_hand select_drink "
    "select_drink_spatial select_drink_common_sense select_drink_semantic take_out_cool_drink "
    "cool_drink",
    30.0: "find_unseen_object friction_qa density_qa weight_qa thermal_expansion_qa "
    "speed_of_sound_qa magnetism_qa reflection_qa",
    FIELD_OF_VIEW: "select_book select_book_spatial select_specific_type_book select_book_semantic "
    "put_box_on_painting hang_picture_on_specific_nail hammer_nail_and_hang_picture "
    "select_ingredient_spatial select_ingredient_common_sense select_ingredient_semantic "
    "set_study_table select_fruit select_fruit_spatial select_fruit_common_sense "
    "select_fruit_semantic select_toy select_toy_spatial select_toy_common_sense "
    "select_toy_semantic select_poker select_poker_spatial select_nth_largest_poker "
    "select_poker_semantic select_mahjong select_billiards select_chemistry_tube "
    "select_chemistry_tube_spatial select_chemistry_tube_common_sense "
    "select_chemistry_tube_semantic insert_flower insert_bloom_flower insert_flower_common_sense "
    "insert_flower_semantic",
    50.0: "select_painting",
}
FRONT_FIELDS = {task: field for field, tasks in _FRONT.items() for task in tasks.split()}
"""Task to the front camera's field of view, degrees; of other tasks it is not known."""


class VLABenchReader(DemoReader):
    """One HDF5 file of VLABench: a group ``data/<time of recording>`` for each demonstration.

    The t-th observation is the one before the t-th action. The folder's name is the task's, and
    decides the field of view of the front camera, which no file holds: under another name than
    VLABench's, that view has no intrinsics.
    """

    format: ClassVar[str] = "VLABench"

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether there is a group ``data`` of groups with a trajectory or observed images."""
        data = file.get("data")
        return isinstance(data, h5py.Group) and any(
            isinstance(demo, h5py.Group) and ("trajectory" in demo or "observation/rgb" in demo)
            for demo in data.values()
        )

    @cached_property
    def names(self) -> list[str]:
        """Demonstrations by the time of their recording."""
        return sorted(self.file["data"])

    @property
    def task(self) -> str:
        """Name of the folder that the file is in."""
        path = self.path if "://" in self.path else os.path.abspath(self.path)
        return PurePosixPath(path).parent.name

    def failed(self) -> list[str]:
        """None: VLABench writes down successes only."""
        return []

    def instruction(self, demo: str) -> str:
        """The sentence of ``data/<demo>/instruction``."""
        told = self.file.get(f"data/{demo}/instruction")
        sentence = b"".join(np.atleast_1d(told[()])[:1]) if isinstance(told, h5py.Dataset) else b""
        if not sentence.strip():
            raise ValueError(
                f"{self.path}: data/{demo}/instruction: found {'nothing' if told is None else told}"
                ", wanted a sentence. Give one with the demos: {path: …, instruction: …}."
            )
        return sentence.decode().strip()

    @cached_property
    def spec(self) -> PolicySpec:
        """Headers of the first demonstration."""
        return self._promise(self.names[0])

    def demos(self) -> list[DemoInfo]:
        """Every demonstration, as long as its trajectory."""
        whole, demos = self.spec, []
        for name in self.names:
            whole.check_compatible(self._promise(name), f"{self.path} as a whole", f"its {name}")
            images, read = self._images(name), [self._poses(name), *self._joints(name).values()]
            steps = len(self._trajectory(name))
            if odd := [values for values in [images, *read] if len(values) != steps]:
                raise ValueError(
                    f"{self.path}: {odd[0].name} has {len(odd[0])} steps, the trajectory beside it "
                    f"{steps}; one observation for each action is wanted. Copy or generate the "
                    "file again."
                )
            demos.append(DemoInfo(name, steps, images.chunks[0] if images.chunks else 1))
        return demos

    def actions(self, demo: str, start: int, stop: int) -> Floats:
        """Poses to go to; VLABench's converter takes the gripper for open above 0.03 m."""
        rows: Floats = self.rows(self._trajectory(demo), start, stop).astype(np.float32)
        self.finite(rows, "trajectory", demo, start)
        return np.concatenate([rows[:, :6], rows[:, 7:] > 0.03], axis=1, dtype=np.float32)

    def states(self, demo: str, start: int, stop: int) -> Floats:
        """The named parts side by side."""
        poses = self.rows(self._poses(demo), start, stop).astype(np.float64)
        found = {
            "ee_pos": poses[:, :3] - BASE,
            "ee_euler": euler(poses[:, 3:7]),
            "gripper_open": 1 - poses[:, 7:],
            **{part: self.rows(rows, start, stop) for part, rows in self._joints(demo).items()},
        }
        parts = [found[part].reshape(stop - start, -1) for part in self.spec.state]
        laid = np.concatenate([np.zeros((stop - start, 0)), *parts], axis=1).astype(np.float32)
        return self.finite(laid, "observation", demo, start)

    def images(self, demo: str, start: int, stop: int) -> dict[str, Pixels]:
        """Images as rendered: VLABench's are upright.

        Where h5py has laid chunks across views, these are read together, so that no chunk is
        decoded twice.
        """
        images = self._images(demo)
        found: dict[int, Pixels] = {}
        span = images.chunks[1] if images.chunks else 1
        places = {view: VIEWS.index(view) for view in self.spec.views}
        for first in {place // span * span for place in places.values()}:
            rows = read(images, slice(start, stop), slice(first, first + span))
            found |= {first + within: rows[:, within] for within in range(rows.shape[1])}
        return {view: found[place] for view, place in places.items()}

    def intrinsics(self, demo: str) -> dict[str, Floats]:
        """Camera matrices by the fields of view that VLABench gives its cameras."""
        fields = dict.fromkeys(self.spec.views, FIELD_OF_VIEW)
        if "front" in fields:
            fields["front"] = FRONT_FIELDS.get(self.task, 0.0)
        return {
            view: camera_matrix(field, self.spec.views[view])
            for view, field in fields.items()
            if field
        }

    def stored(self, demo: str) -> dict[str, h5py.Dataset]:
        """One data set for all views, in chunks across steps, views, rows, columns and colours."""
        return dict.fromkeys(self.spec.views, self._images(demo))

    def _promise(self, demo: str) -> PolicySpec:
        views = VIEWS if self.views is None else self.views
        if odd := [view for view in views if view not in VIEWS]:
            raise ValueError(
                f"{self.path}: data/{demo} has no view {odd[0]!r}; VLABench's are: "
                f"{', '.join(VIEWS)}. Change `views`."
            )
        joints = {part: int(np.prod(d.shape[1:])) for part, d in self._joints(demo).items()}
        sizes = POSE | joints
        return PolicySpec(
            views=dict.fromkeys(views, self._images(demo).shape[2]),
            state={part: sizes[part] for part in (sizes if self.state is None else self.state)},
            action_dim=7,
            control_mode=CONTROL_MODE,
        )

    def _trajectory(self, demo: str) -> h5py.Dataset:
        return self._find(demo, "trajectory", "(T, 8)", lambda rows: rows.shape[1:] == (8,))

    def _poses(self, demo: str) -> h5py.Dataset:
        key = "observation/ee_state"
        return self._find(demo, key, "(T, 8)", lambda rows: rows.shape[1:] == (8,))

    def _images(self, demo: str) -> h5py.Dataset:
        wanted = f"(T, {len(VIEWS)}, S, S, 3) of uint8, S pixels, views {', '.join(VIEWS)}"
        return self._find(demo, "observation/rgb", wanted, _are_images)

    def _joints(self, demo: str) -> dict[str, h5py.Dataset]:
        """The wanted state parts that are stored as they are."""
        observation = self.file[f"data/{demo}"].get("observation", {})
        there = [part for part in JOINTS if part in observation]
        wanted = there if self.state is None else [part for part in self.state if part not in POSE]
        if odd := [part for part in wanted if part not in there]:
            raise ValueError(
                f"{self.path}: data/{demo} has no state part {odd[0]!r}; there are: "
                f"{', '.join([*POSE, *there])}. Change `state`."
            )
        return {part: observation[part] for part in wanted}

    def _find(
        self, demo: str, key: str, wanted: str, fits: Callable[[h5py.Dataset], bool]
    ) -> h5py.Dataset:
        rows = self.file.get(f"data/{demo}/{key}")
        if not isinstance(rows, h5py.Dataset) or not rows.shape or not len(rows) or not fits(rows):
            found = "nothing" if rows is None else rows
            if isinstance(rows, h5py.Dataset):
                found = f"{rows.shape} of {rows.dtype}"
            raise ValueError(
                f"{self.path}: data/{demo}/{key}: found {found}, wanted {wanted}. Copy or generate "
                "the file again, or delete that demonstration from it."
            )
        return rows


def _are_images(rows: h5py.Dataset) -> bool:
    sides = rows.shape[2:3] * 2
    return rows.shape[1:] == (len(VIEWS), *sides, 3) and bool(rows.dtype == np.uint8)


def euler(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turns about the fixed axes x, y and z, one after the other, that make up a rotation.

    Bernardes and Viollet, 2022, as scipy's ``as_euler("xyz")`` has it, from which VLABench takes
    its angles. Where the turn about y is ±90° only the sum or difference of the others is known;
    that about z is then 0.

    Args:
        quaternion: ``(n, 4)``, wxyz.

    Returns:
        ``(n, 3)``, radians, from -π to π.
    """
    w, x, y, z = quaternion.T
    middle = 2 * np.arctan2(np.hypot(y + w, z - x), np.hypot(w - y, x + z))
    half_sum, half_difference = np.arctan2(x + z, w - y), np.arctan2(z - x, y + w)
    down, up = middle <= 1e-7, middle >= np.pi - 1e-7
    first = np.select([down, up], [2 * half_sum, -2 * half_difference], half_sum - half_difference)
    third = np.where(down | up, 0, half_sum + half_difference)
    angles = np.stack([first, middle - np.pi / 2, third], axis=1)
    within: NDArray[np.float64] = angles - 2 * np.pi * np.sign(angles) * (np.abs(angles) > np.pi)
    return within
