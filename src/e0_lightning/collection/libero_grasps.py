"""How the scripted LIBERO expert grasps an object."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from e0_lightning.collection.libero_gripper import (
    FINGERS,
    FINGERTIP,
    LEAN,
    Pose,
    facing_down,
    overlap,
)
from e0_lightning.collection.libero_scene import MAX_GRASP_WIDTH, Boxes, Floats, Scene

RIM = 0.006
"""Depth below the highest point up to which corners belong to a rim, metres."""

RIM_DEPTH = 0.018
"""How far below a rim it is grasped, metres."""

SHIFTS = (0.0, 0.012, 0.024)
"""Distances from the wall of a container to the middle of the fingers, towards its inside."""


class Rim(NamedTuple):
    """The rim of an object, a circle that may be tilted."""

    center: Floats
    """``(3,)``, metres, world frame."""
    radius: float
    axes: Floats
    """Two directions in its plane and its normal, ``(3, 3)``, rows."""

    @property
    def middle(self) -> Floats:
        """Point on its axis in the depth in which it is grasped, ``(3,)``."""
        return np.asarray(self.center - RIM_DEPTH * self.axes[2])

    def outwards(self, angle: float) -> Floats:
        """Return the direction to a point of it, ``(3,)``, at an angle from the world's x axis."""
        return np.array([np.cos(angle), np.sin(angle), 0.0]) @ self.axes


def choose_grasp(scene: Scene, item: str, side: Floats) -> Pose:
    """Grasp an object across its narrowest side, else by its rim if it is hollow, else by its top.

    Args:
        scene: The scene.
        item: The object.
        side: Direction from the middle of a rim to the preferred part of it, ``(3,)``, and how
            much it is preferred.

    Raises:
        ValueError: If it is too wide for all of them.
    """
    grasp = side_grasp(scene, item)
    if grasp is None:
        grasp = rim_grasp(scene, item, side) if is_hollow(scene, item) else top_grasp(scene, item)
    if grasp is None:
        raise ValueError(f"expected an object that the gripper can grasp, got {item}")
    return grasp


def side_grasp(scene: Scene, item: str) -> Pose | None:
    """Grasp across the narrowest side; None if the gripper does not fit around it."""
    boxes = scene.boxes(item)
    corners = boxes.corners().reshape(-1, 3)
    low, high = corners.min(axis=0), corners.max(axis=0)
    yaw, width = _narrowest(corners)
    height = max(high[2] - 0.03, low[2] + 0.012, (low[2] + high[2]) / 2 - 0.005)
    center = (low + high)[:2] / 2
    grasp = Pose(np.array([*center, min(height, high[2] - 0.008)]), facing_down(yaw))
    collides = overlap(boxes, grasp, margin=0.0) > 0
    return None if width > MAX_GRASP_WIDTH or collides else grasp


def rim_grasp(scene: Scene, item: str, side: Floats) -> Pose:
    """Grasp the wall of an open container where the gripper has the most clearance.

    The fingers need not be centred on the wall: with the outer one close to it they fit between
    the container and what stands beside it, and closing them moves the container. The gripper may
    lean to either side, away from what is higher than the container.
    """
    rim, boxes = find_rim(scene, item), scene.boxes(item)
    low, high = scene.corners(item).min(axis=0), scene.corners(item).max(axis=0)
    outline = np.stack(np.meshgrid(*np.linspace(low, high, 4).T), axis=-1).reshape(-1, 3)
    obstacles = scene.obstacles(item)
    near = np.linalg.norm(obstacles.center[:, :2] - rim.center[:2], axis=1) < 0.5
    obstacles = obstacles.select(near & (obstacles.tops() > high[2] - 0.04))
    candidates = []
    angles = np.deg2rad(range(0, 360, 15))
    for angle, lean, shift in product(angles, (0.0, LEAN, -LEAN), SHIFTS):
        out = rim.outwards(angle)
        yaw = float(angle % np.pi - np.pi / 2)  # of two, the one with less wrist rotation
        point = rim.middle + (rim.radius - shift) * out
        point[2] = max(point[2], low[2] + FINGERTIP + 0.005)
        grasp = Pose(point, facing_down(yaw, lean))
        away = max(grasp.backwards()[0], 0.0)  # the arm cannot point back at the robot
        inwards = -np.sign(rim.center[:2]) @ out[:2]
        effort = 4 * away + 0.25 * abs(yaw) + abs(lean) + 5 * shift - 0.02 * inwards - side @ out
        candidates.append((effort, grasp))
    candidates.sort(key=lambda candidate: candidate[0])
    best, cost = candidates[0][1], np.inf
    for effort, grasp in candidates:
        if effort >= cost:
            break
        total = effort + 100 * _hits(grasp, boxes, outline, obstacles)
        if total < cost:
            best, cost = grasp, total
    return best


def _hits(grasp: Pose, boxes: Boxes, outline: Floats, obstacles: Boxes) -> float:
    """Return how far gripper and object reach into obstacles on the way in and out, metres."""
    hits = overlap(boxes, grasp, FINGERS, margin=0.0)
    for distance in (0.0, 0.05, 0.1):
        back = distance * grasp.backwards()
        hits += overlap(obstacles, Pose(grasp.position + back, grasp.orientation))
        if distance:
            reach = -float(obstacles.distance(outline + back).min(initial=np.inf))
            hits += max(reach, 0.0)
    return hits


def top_grasp(scene: Scene, item: str) -> Pose | None:
    """Grasp the part that sticks out at the top, such as the knob of a lid; None if too wide."""
    corners = scene.boxes(item).corners()
    tops = corners[..., 2].max(axis=1)
    knob = corners[int(np.argmax(tops))]
    yaw, width = _narrowest(knob)
    if width > MAX_GRASP_WIDTH:
        return None
    lid = max(tops[tops < tops.max() - 0.005], default=knob[:, 2].min())
    height = max(float(knob[:, 2].max()) - 0.02, float(lid) + FINGERTIP)
    return Pose(np.array([*knob[:, :2].mean(axis=0), height]), facing_down(yaw))


def is_hollow(scene: Scene, item: str) -> bool:
    """Whether there is nothing in the middle of an object below its rim."""
    return bool(scene.boxes(item).distance(find_rim(scene, item).middle[None]).min() > 0.01)


def find_rim(scene: Scene, item: str) -> Rim:
    """Return the rim of an object, whichever of its own axes points up."""
    axes = scene.rotation(item).T
    up = axes[int(np.argmax(abs(axes[:, 2])))]
    up = up * np.sign(up[2])
    first = np.array([1.0, 0.0, 0.0]) - up[0] * up
    first /= np.linalg.norm(first)
    basis = np.stack([first, np.cross(up, first), up])
    corners = scene.corners(item) @ basis.T
    top = corners[:, 2].max()
    rim = corners[corners[:, 2] > top - RIM][:, :2]
    center = (rim.min(axis=0) + rim.max(axis=0)) / 2
    radius = float(np.median(np.linalg.norm(rim - center, axis=1))) - 0.004
    return Rim(np.array([*center, top]) @ basis, radius, basis)


def _narrowest(corners: Floats) -> tuple[float, float]:
    """Return yaw of the finger axis across the narrowest side, radians, and the width, metres."""
    yaws = np.deg2rad(np.arange(-90, 90, 3))
    axes = np.stack([-np.sin(yaws), np.cos(yaws)])
    widths = np.ptp(corners[:, :2] @ axes, axis=0)
    best = int(np.argmin(widths + 0.002 * np.abs(yaws)))  # large wrist rotations take time
    return float(yaws[best]), float(widths[best])
