"""Demonstrations as VLABench generates them: ``<task>/data_<i>.hdf5``, most with one episode."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePosixPath

import h5py
import numpy as np

from e0_lightning.data.formats.base import Array, DemoReader, Floats
from e0_lightning.data.formats.hdf5 import members, read_chunks
from e0_lightning.geometry import camera_matrix, quaternion_to_euler
from e0_lightning.types import PolicySpec, ViewSize

CONTROL_MODE = "ee_pose_absolute"
"""Target pose of the gripper: position relative to the robot's base along the axes of the scene,
metres; rotations about its fixed axes x, y, z, radians; 1 open, 0 closed. At 10 Hz."""

BASE = np.array([0.0, -0.4, 0.78])
"""Position of the robot's base in the scene, metres. VLABench subtracts it from positions, but does
not rotate them by the base's yaw."""

VIEWS = ("right", "left", "front", "wrist")
"""The cameras in the order of their images, named as by VLABench's own openpi client."""

POSE = {"ee_pos": 3, "ee_euler": 3, "gripper_open": 1}
"""State parts of VLABench's 7-dimensional state, in its order; the last is 1 for an open gripper,
as in the actions. VLABench's own flag is 1 for a closed one."""

JOINTS = ("q_state", "q_velocity", "q_acceleration")
"""State parts that are stored as they are."""

FIELD_OF_VIEW = 45.0
"""Degrees between opposite edges of cameras without another angle: MuJoCo's default. Neither
VLABench's base/camera.xml nor the wrist camera in its franka_emika_panda/panda.xml sets one; the
matrices that the fork 1mather/vlabench exported from the compiled model (base/camera_matrices.json)
are all of 45°."""

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
"""Task to the front camera's field of view, degrees; for other tasks it is not known."""


class VLABenchReader(DemoReader):
    """An HDF5 file of VLABench: a group ``data/<time of recording>`` for each demonstration.

    The t-th observation is the one before the t-th action. The task is the name of the folder. It
    decides the field of view of the front camera, which no file stores: under a name that is not
    VLABench's, that view has no intrinsics.
    """

    format = "VLABench"

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether there is a group ``data`` of groups with a trajectory or observed images."""
        return any(
            isinstance(demo, h5py.Group) and ("trajectory" in demo or "observation/rgb" in demo)
            for demo in members(file.get("data")).values()
        )

    @property
    def rate(self) -> float:
        """Frequency of VLABench's recordings."""
        return 10

    @property
    def task(self) -> str:
        """Name of the folder that the file is in."""
        path = self.path if "://" in self.path else os.path.abspath(self.path)
        return PurePosixPath(path).parent.name

    def read_instruction(self, demo: str) -> str | None:
        """The instruction in ``data/<demo>/instruction``."""
        found = self.find(f"data/{demo}/instruction")
        if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "SO":
            return None
        return b"".join(np.atleast_1d(found[()])[:1]).decode().strip() or None

    def lengths(self) -> dict[str, int]:
        """Every demonstration by its time of recording, as long as its trajectory."""
        lengths = {}
        for name in sorted(self.file["data"]):
            read = [self._images(name), self._poses(name), *self._joints(name).values()]
            steps = len(self._trajectory(name))
            if unequal := [dataset for dataset in read if len(dataset) != steps]:
                raise ValueError(
                    f"{self.path}: {unequal[0].name}: expected one observation for each of the "
                    f"{steps} steps of the trajectory beside it, got {len(unequal[0])}. Copy or "
                    "generate the file again."
                )
            lengths[name] = steps
        return lengths

    def read_actions(self, demo: str, start: int, stop: int) -> Array:
        """Target poses; as in VLABench's converter, the gripper is open above 0.03 m."""
        rows = self.rows(self._trajectory(demo), start, stop).astype(np.float32)
        self._finite(rows, "trajectory", demo, start)
        return np.concatenate([rows[:, :6], rows[:, 7:] > 0.03], axis=1, dtype=np.float32)

    def read_states(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """Pose of the gripper relative to the robot's base, and joints as they are stored."""
        poses = self.rows(self._poses(demo), start, stop).astype(np.float64)
        self._finite(poses.astype(np.float32), "observation/ee_state", demo, start)
        joints = self._joints(demo).items()
        return {
            "ee_pos": poses[:, :3] - BASE,
            "ee_euler": quaternion_to_euler(poses[:, 3:7]),
            "gripper_open": 1 - poses[:, 7:],
            **{part: self.rows(dataset, start, stop) for part, dataset in joints},
        }

    def read_images(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """Images as rendered: VLABench's are upright.

        Views that share chunks are read together, so that no chunk is decoded twice.
        """
        images = self.check_chunks(self._images(demo))
        found: dict[int, Array] = {}
        span = images.chunks[1] if images.chunks else 1
        columns = {view: VIEWS.index(view) for view in self.spec.views}
        for first in {column // span * span for column in columns.values()}:
            rows = read_chunks(images, slice(start, stop), slice(first, first + span))
            found |= {first + within: rows[:, within] for within in range(rows.shape[1])}
        return {view: found[column] for view, column in columns.items()}

    def read_intrinsics(self, demo: str) -> dict[str, Floats]:
        """Camera matrices by the fields of view that VLABench gives its cameras."""
        fields: dict[str, float | None] = dict.fromkeys(self.spec.views, FIELD_OF_VIEW)
        if "front" in fields:
            fields["front"] = FRONT_FIELDS.get(self.task)
        size = self._images(demo).shape[2:4]
        return {view: camera_matrix(fov, *size) for view, fov in fields.items() if fov}

    def image_dataset(self, demo: str) -> dict[str, h5py.Dataset]:
        """One data set for all views, in chunks across steps, views, rows, columns and colours."""
        return dict.fromkeys(self._views(demo), self._images(demo))

    def read_spec(self, demo: str) -> PolicySpec:
        """Headers of a demonstration."""
        joints = {part: int(np.prod(d.shape[1:])) for part, d in self._joints(demo).items()}
        sizes = POSE | joints
        return PolicySpec(
            views=dict.fromkeys(self._views(demo), ViewSize(*self._images(demo).shape[2:4])),
            state={part: sizes[part] for part in (sizes if self.state is None else self.state)},
            action_dim=7,
            control_mode=CONTROL_MODE,
        )

    def _views(self, demo: str) -> list[str]:
        views = list(VIEWS) if self.views is None else self.views
        if unknown := [view for view in views if view not in VIEWS]:
            raise ValueError(
                f"{self.path}: data/{demo} has no view {unknown[0]!r}; VLABench's are: "
                f"{', '.join(VIEWS)}. Change `views`."
            )
        return views

    def _trajectory(self, demo: str) -> h5py.Dataset:
        return self._dataset(demo, "trajectory", "(T, 8)", lambda rows: rows.shape[1:] == (8,))

    def _poses(self, demo: str) -> h5py.Dataset:
        key = "observation/ee_state"
        return self._dataset(demo, key, "(T, 8)", lambda rows: rows.shape[1:] == (8,))

    def _images(self, demo: str) -> h5py.Dataset:
        expected = f"(T, {len(VIEWS)}, h, w, 3) of uint8, views {', '.join(VIEWS)}"
        return self._dataset(demo, "observation/rgb", expected, _are_images)

    def _joints(self, demo: str) -> dict[str, h5py.Dataset]:
        """State parts that are stored as they are."""
        found = {part: self.find(f"data/{demo}/observation/{part}") for part in JOINTS}
        stored = {part: d for part, d in found.items() if isinstance(d, h5py.Dataset) and d.shape}
        parts = stored if self.state is None else [p for p in self.state if p not in POSE]
        if missing := [part for part in parts if part not in stored]:
            raise ValueError(
                f"{self.path}: data/{demo} has no state part {missing[0]!r}, it has "
                f"{', '.join([*POSE, *stored])}. Change `state`."
            )
        return {part: stored[part] for part in parts}

    def _dataset(
        self, demo: str, key: str, expected: str, fits: Callable[[h5py.Dataset], bool]
    ) -> h5py.Dataset:
        found = self.find(f"data/{demo}/{key}")
        if not isinstance(found, h5py.Dataset) or not found.shape or not len(found):
            got = "nothing" if found is None else "a group"
        elif fits(found):
            return found
        if isinstance(found, h5py.Dataset):
            got = f"{found.shape} of {found.dtype}"
        raise ValueError(
            f"{self.path}: data/{demo}/{key}: expected {expected}, got {got}. Copy or generate the "
            "file again, or delete that demonstration from it."
        )


def _are_images(rows: h5py.Dataset) -> bool:
    shape: tuple[int, ...] = rows.shape or ()
    return len(shape) == 5 and (shape[1], shape[4]) == (len(VIEWS), 3) and rows.dtype == np.uint8
