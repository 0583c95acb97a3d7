"""Poses and shape of the Panda gripper, and its clearance from obstacles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e0_lightning.collection.libero_scene import Boxes, Floats

FINGERTIP = 0.013
"""Distance from the end effector to the tips of the fingers, metres."""

MARGIN = 0.006
"""Clearance that a pose of the gripper keeps, metres."""

LEAN = np.deg2rad(25)
"""Rotation about the finger axis with which the hand gives way, radians."""

POINTING_DOWN = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))


class Pose(NamedTuple):
    """Pose of the gripper, world frame."""

    position: Floats
    """Between the fingertips, ``(3,)``, metres."""
    orientation: Rotation
    """From gripper to world: z points along the fingers, y from one to the other."""

    def backwards(self) -> Floats:
        """Return the direction in which the gripper retreats, ``(3,)``."""
        return -np.asarray(self.orientation.apply([0.0, 0.0, 1.0]))


def facing_down(yaw: float, lean: float = 0.0) -> Rotation:
    """Return the orientation of a gripper that points down, its fingers along y at yaw 0."""
    return Rotation.from_euler("z", yaw) * POINTING_DOWN * Rotation.from_euler("y", lean)


def _grid(x: list[float], y: list[float], z: list[float]) -> Floats:
    grid: Floats = np.stack(np.meshgrid(x, y, z), axis=-1).reshape(-1, 3)
    return grid


FINGERS = np.concatenate(
    [
        np.concatenate([part, part * (1, -1, 1)])
        for part in (
            _grid([-0.009, 0.009], [0.040, 0.054], [0.012, 0.0]),
            _grid([-0.009, 0.009], [0.042, 0.065], [-0.025]),
        )
    ]
)
"""Points on the open fingers, gripper frame, ``(n, 3)``, metres."""

HAND = np.concatenate(
    [
        _grid([-0.02, 0.0, 0.02], list(np.linspace(-0.1, 0.1, 9)), [-0.031, -0.055]),
        _grid([-0.032, 0.0, 0.032], list(np.linspace(-0.1, 0.1, 9)), [-0.085, -0.115]),
        _grid([-0.045, 0.0, 0.045], [-0.045, 0.0, 0.045], [-0.14, -0.18]),
    ]
)
"""Points on the hand and the wrist, gripper frame, ``(n, 3)``, metres."""

GRIPPER = np.concatenate([FINGERS, HAND])


def overlap(boxes: Boxes, pose: Pose, shape: Floats = GRIPPER, margin: float = MARGIN) -> float:
    """Return how far points of the gripper reach into obstacles or their margin, metres summed."""
    points = pose.position + pose.orientation.apply(shape)
    distance = boxes.distance(points).min(axis=0, initial=np.inf)
    return float(np.maximum(margin - distance, 0).sum())
