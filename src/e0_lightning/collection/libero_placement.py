"""Where the scripted LIBERO expert releases a carried object."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e0_lightning.collection.libero_gripper import Pose, overlap
from e0_lightning.collection.libero_scene import Boxes, Floats, Region, Scene

RISES = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.06]])
"""Offsets of the gripper on its last way down at which clearance is checked, metres."""

BORDER = 0.9
"""Share of a region that the position of an object may lie in."""


class Load(NamedTuple):
    """A carried object, relative to the end effector in a frame parallel to the world's."""

    item: str
    corners: Floats
    """Of its collision boxes, ``(n, 3)``, metres."""
    origin: Floats
    """Its position, ``(3,)``, metres."""
    orientation: Rotation
    """From gripper to world."""

    def turned(self, yaw: float) -> Load:
        """Return the load after a rotation about the vertical, radians."""
        spin = Rotation.from_euler("z", yaw)
        return Load(
            self.item, spin.apply(self.corners), spin.apply(self.origin), spin * self.orientation
        )

    def foot(self) -> Floats:
        """Return the lowest corners, ``(n, 2)``, metres."""
        foot: Floats = self.corners[self.corners[:, 2] < self.corners[:, 2].min() + 0.02][:, :2]
        return foot


def choose_placement(
    scene: Scene, load: Load, destination: str, side: float
) -> tuple[Floats, Rotation]:
    """Choose the pose of the gripper in which a carried object is released.

    Args:
        scene: The scene with the object in the gripper.
        load: The object.
        destination: Object or region.
        side: Where in a region that several objects share, from -1 to 1; 0 for its middle.

    Returns:
        Position, ``(3,)``, metres, and orientation of the end effector.
    """
    below = -float(load.corners[:, 2].min())
    if not scene.is_region(destination):
        top = scene.corners(destination)[:, 2].max()
        target = scene.position(destination)[:2] - load.origin[:2]
        return np.array([*target, top + below - 0.002]), load.orientation
    region = scene.region(destination)
    load = load.turned(_fitting_yaw(load, region))
    if scene.is_movable(region.owner):
        # Dropped from the rim of a container, which is too narrow for the hand.
        top = scene.corners(region.owner)[:, 2].max()
        room = np.maximum(region.half - np.ptp(load.corners, axis=0) / 2, 0)
        target = _target(region, load, side, room) - load.origin[:2]
        return np.array([*target, top + below - 0.02]), load.orientation
    target = _target(region, load, side, BORDER * region.half)
    return _free_position(scene, region, load, target), load.orientation


def _free_position(scene: Scene, region: Region, load: Load, target: Floats) -> Floats:
    """Return the position near a target where object and gripper have the most clearance."""
    obstacles = scene.obstacles(load.item)
    near = np.linalg.norm(obstacles.center[:, :2] - region.center[:2], axis=1) < 0.4
    obstacles = obstacles.select(near)
    spots = _spots(region)
    supports = [scene.support(spot - load.origin[:2] + load.foot(), load.item) for spot in spots]
    best, cost = region.center, np.inf
    for spot, support in zip(spots, supports, strict=True):
        height = support + 0.004 - load.corners[:, 2].min()
        position = np.array([*(spot - load.origin[:2]), height])
        hit = sum(
            overlap(obstacles, Pose(position + rise, load.orientation))
            + _penetration(obstacles, position + rise + load.corners)
            for rise in RISES
        )
        raised = support - min(supports)  # on the walls of the region or on something in it
        total = 100 * hit + 50 * raised + np.linalg.norm(spot - target)
        if total < cost:
            best, cost = position, float(total)
    return best


def _fitting_yaw(load: Load, region: Region) -> float:
    """Return the smallest rotation with which an object best fits a region, radians."""
    flat = _flat_axes(region)
    costs = {}
    for yaw in np.deg2rad(np.arange(-90, 91, 5)):
        corners = Rotation.from_euler("z", yaw).apply(load.corners)
        extents = np.ptp(corners[:, :2] @ region.rotation[:2, flat], axis=0)
        excess = np.maximum(extents - 2 * region.half[flat], 0).sum()
        costs[float(yaw)] = excess + 0.003 * abs(yaw)
    return min(costs, key=costs.__getitem__)


def _target(region: Region, load: Load, side: float, room: Floats) -> Floats:
    """Return the preferred x and y in a region, ``(2,)``: aside where the object is narrow."""
    extents = np.ptp(load.corners @ region.rotation, axis=0)
    axis = min(_flat_axes(region), key=lambda index: float(extents[index] / region.half[index]))
    target: Floats = region.center[:2] + side * room[axis] * region.rotation[:2, axis]
    return target


def _spots(region: Region) -> Floats:
    """Return candidate positions in a region, ``(n, 2)``."""
    flat = _flat_axes(region)
    steps = np.linspace(-BORDER, BORDER, 13)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    spots: Floats = region.center[:2] + (grid * region.half[flat]) @ region.rotation[:2, flat].T
    return spots


def _flat_axes(region: Region) -> list[int]:
    """Return which two axes of a region are horizontal."""
    axes: list[int] = np.argsort(abs(region.rotation[2]))[:2].tolist()
    return axes


def _penetration(obstacles: Boxes, points: Floats) -> float:
    """Return how far the points reach into obstacles, metres, the deepest one."""
    return float(max(-obstacles.distance(points).min(initial=np.inf), 0.0))
