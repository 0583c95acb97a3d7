"""Shape of the Panda gripper, its clearance from obstacles, and grasps of objects."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e0_lightning.collection.libero_scene import MAX_GRASP_WIDTH, Boxes, Floats, Scene

FINGERTIP = 0.013
"""Distance from the end effector to the tips of the fingers, metres."""

MARGIN = 0.006
"""Clearance that a pose of the gripper keeps, metres."""

LEAN = np.deg2rad(25)
"""Rotation about the finger axis with which the hand gives way, radians."""

POINTING_DOWN = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))


class Grasp(NamedTuple):
    """Pose of the gripper on an object."""

    point: Floats
    """Between the fingertips, ``(3,)``, metres, world frame."""
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
        _grid([-0.02, 0.02], list(np.linspace(-0.1, 0.1, 9)), [-0.031, -0.055]),
        _grid([-0.032, 0.032], list(np.linspace(-0.1, 0.1, 9)), [-0.085, -0.115]),
        _grid([-0.045, 0.0, 0.045], [-0.045, 0.0, 0.045], [-0.14, -0.18]),
    ]
)
"""Points on the hand and the wrist, gripper frame, ``(n, 3)``, metres."""

GRIPPER = np.concatenate([FINGERS, HAND])


def overlap(boxes: Boxes, point: Floats, orientation: Rotation, shape: Floats = GRIPPER) -> float:
    """Return how far points of the gripper reach into obstacles or their margin, metres summed."""
    if not len(boxes.center):
        return 0.0
    distance = boxes.distance(point + orientation.apply(shape)).min(axis=0)
    return float(np.maximum(MARGIN - distance, 0).sum())


def choose_grasp(scene: Scene, item: str) -> Grasp:
    """Grasp an object across its narrowest side, else by its rim if it is hollow, else by its top.

    Raises:
        ValueError: If it is too wide for all of them.
    """
    grasp = side_grasp(scene, item)
    if grasp is None:
        grasp = rim_grasp(scene, item) if is_hollow(scene, item) else top_grasp(scene, item)
    if grasp is None:
        raise ValueError(f"expected an object that the gripper can grasp, got {item}")
    return grasp


def side_grasp(scene: Scene, item: str) -> Grasp | None:
    """Grasp across the narrowest side; None if the gripper does not fit around it."""
    boxes = scene.boxes(item)
    corners = boxes.corners().reshape(-1, 3)
    low, high = corners.min(axis=0), corners.max(axis=0)
    yaw, width = _narrowest(corners)
    height = max(high[2] - 0.03, low[2] + 0.012, (low[2] + high[2]) / 2 - 0.005)
    center = (low + high)[:2] / 2
    grasp = Grasp(np.array([*center, min(height, high[2] - 0.008)]), facing_down(yaw))
    collides = boxes.distance(grasp.point + grasp.orientation.apply(GRIPPER)).min() < 0
    return None if width > MAX_GRASP_WIDTH or collides else grasp


def rim_grasp(scene: Scene, item: str) -> Grasp:
    """Grasp the wall of an open container where the gripper has the most clearance.

    The fingers need not be centred on the wall: with the outer one close to it they fit between
    the container and what stands beside it, and closing them moves the container. The gripper may
    lean to either side, away from what is higher than the container.
    """
    boxes = scene.boxes(item)
    corners = boxes.corners().reshape(-1, 3)
    low, high = corners.min(axis=0), corners.max(axis=0)
    rim = corners[corners[:, 2] > high[2] - 0.006][:, :2]
    center = (rim.min(axis=0) + rim.max(axis=0)) / 2
    radius = float(np.median(np.linalg.norm(rim - center, axis=1))) - 0.004
    height = max(high[2] - 0.018, low[2] + FINGERTIP + 0.005)
    obstacles = scene.obstacles(item)
    near = np.linalg.norm(obstacles.center[:, :2] - center, axis=1) < 0.5
    obstacles = obstacles.select(near & (obstacles.tops() > height - 0.02))
    outline = np.stack(np.meshgrid(*np.linspace(low, high, 4).T), axis=-1).reshape(-1, 3)
    best, cost = None, np.inf
    angles = np.deg2rad(range(0, 360, 15))
    for angle, lean, shift in product(angles, (0.0, LEAN, -LEAN), (0.0, 0.012, 0.024)):
        out = np.array([np.cos(angle), np.sin(angle)])
        yaw = float(angle % np.pi - np.pi / 2)  # of two, the one with less wrist rotation
        grasp = Grasp(
            np.array([*(center + (radius - shift) * out), height]),
            facing_down(yaw, lean),
        )
        hit = _hits(grasp, boxes, outline, obstacles)
        away = max(grasp.backwards()[0], 0.0)  # the arm cannot point back at the robot
        inwards = -np.sign(center) @ out
        effort = 4 * away + 0.25 * abs(yaw) + abs(lean) + 5 * shift - 0.02 * inwards
        total = 100 * hit + effort
        if total < cost:
            best, cost = grasp, total
    assert best is not None
    return best


def _hits(grasp: Grasp, boxes: Boxes, outline: Floats, obstacles: Boxes) -> float:
    """Return how far gripper and object reach into obstacles on the way in and out, metres."""
    hits = overlap(boxes, grasp.point, grasp.orientation, FINGERS)
    for distance in (0.0, 0.05, 0.1):
        back = distance * grasp.backwards()
        hits += overlap(obstacles, grasp.point + back, grasp.orientation)
        if distance and len(obstacles.center):
            hits += max(-float(obstacles.distance(outline + back).min()), 0.0)
    return hits


def top_grasp(scene: Scene, item: str) -> Grasp | None:
    """Grasp the part that sticks out at the top, such as the knob of a lid; None if too wide."""
    corners = scene.boxes(item).corners()
    tops = corners[..., 2].max(axis=1)
    knob = corners[int(np.argmax(tops))]
    yaw, width = _narrowest(knob)
    if width > MAX_GRASP_WIDTH:
        return None
    lid = max(tops[tops < tops.max() - 0.005], default=knob[:, 2].min())
    height = max(float(knob[:, 2].max()) - 0.02, float(lid) + FINGERTIP)
    return Grasp(np.array([*knob[:, :2].mean(axis=0), height]), facing_down(yaw))


def is_hollow(scene: Scene, item: str) -> bool:
    """Whether there is nothing in the middle of an object below its top."""
    boxes = scene.boxes(item)
    corners = boxes.corners().reshape(-1, 3)
    top = corners[:, 2].max()
    rim = corners[corners[:, 2] > top - 0.006]
    center = (rim.min(axis=0) + rim.max(axis=0)) / 2
    return bool(boxes.distance(np.array([[*center[:2], top - 0.018]])).min() > 0.01)


def _narrowest(corners: Floats) -> tuple[float, float]:
    """Return yaw of the finger axis across the narrowest side, radians, and the width, metres."""
    yaws = np.deg2rad(np.arange(-90, 90, 3))
    axes = np.stack([-np.sin(yaws), np.cos(yaws)])
    widths = np.ptp(corners[:, :2] @ axes, axis=0)
    best = int(np.argmin(widths + 0.002 * np.abs(yaws)))  # large wrist rotations take time
    return float(yaws[best]), float(widths[best])
