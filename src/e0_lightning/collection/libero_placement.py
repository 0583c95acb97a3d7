"""Where the scripted LIBERO expert releases a carried object."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e0_lightning.collection.libero_gripper import Pose, overlap
from e0_lightning.collection.libero_scene import Boxes, Floats, Region, Scene

RISES = np.linspace([0.0, 0.0, 0.0], [0.0, 0.0, 0.18], 4)
"""Offsets of the gripper on its last way down at which clearance is checked, metres."""

GAP = 0.004
"""Clearance of a carried object where it is released, metres."""

QUARTER_TURN = 0.3
"""Cost of turning an object by a quarter, as metres away from the target."""

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


def choose_placement(scene: Scene, load: Load, destination: str, side: float) -> Pose:
    """Choose the pose of the gripper in which a carried object is released.

    Args:
        scene: The scene with the object in the gripper.
        load: The object.
        destination: Object or region.
        side: Where in a region that several objects share, from -1 to 1; 0 for its middle.
    """
    below = -float(load.corners[:, 2].min())
    if not scene.is_region(destination):
        top = scene.corners(destination)[:, 2].max()
        target = scene.position(destination)[:2] - load.origin[:2]
        return Pose(np.array([*target, top + below - 0.002]), load.orientation)
    region = scene.region(destination)
    load = load.turned(_fitting_yaw(load, region))
    if scene.is_movable(region.owner):
        # Dropped from the rim of a container, which is too narrow for the hand.
        top = scene.corners(region.owner)[:, 2].max()
        room = np.maximum(region.half - np.ptp(load.corners, axis=0) / 2, 0)
        target = _target(region, load, side, room) - load.origin[:2]
        return Pose(np.array([*target, top + below - 0.02]), load.orientation)
    return _free_pose(scene, region, load, _target(region, load, side, BORDER * region.half))


def _free_pose(scene: Scene, region: Region, load: Load, target: Floats) -> Pose:
    """Return the pose near a target where object and gripper have the most clearance.

    Where walls leave no room for the fingers, the object is dropped from above them; where
    something stands beside the object, the hand may turn by a quarter.
    """
    obstacles = scene.obstacles(load.item)
    near = np.linalg.norm(obstacles.center[:, :2] - region.center[:2], axis=1) < 0.4
    obstacles = obstacles.select(near)
    candidates = []
    for effort, option in ((0.0, load), (QUARTER_TURN, load.turned(-np.pi / 2))):
        places = _spots(region) - option.origin[:2]
        supports = [scene.support(place + option.foot(), load.item) for place in places]
        for place, support in zip(places, supports, strict=True):
            position = np.array([*place, support + GAP - option.corners[:, 2].min()])
            raised = support - min(supports)  # on the walls of the region or on something in it
            distance = float(np.linalg.norm(place + option.origin[:2] - target))
            candidates.append((effort + 50 * raised + distance, position, option))
    candidates.sort(key=lambda candidate: candidate[0])
    best, cost = Pose(region.center, load.orientation), np.inf
    for effort, position, option in candidates:
        if effort >= cost:
            break
        hits = [_hit(obstacles, position + rise, option) for rise in RISES]
        for rise, hit, above in zip(RISES, hits, hits[1:], strict=False):
            total = effort + 5 * rise[2] + 100 * (hit + above)
            if total < cost:
                best, cost = Pose(position + rise, option.orientation), total
    return best


def _hit(obstacles: Boxes, position: Floats, load: Load) -> float:
    """Return how far gripper and object reach into obstacles, metres."""
    gap = float(obstacles.distance(position + load.corners).min(initial=np.inf))
    return overlap(obstacles, Pose(position, load.orientation)) + max(GAP - gap, 0.0)


def _fitting_yaw(load: Load, region: Region) -> float:
    """Return the smallest rotation with which an object best fits a region, radians."""
    flat = _flat_axes(region)
    costs = {}
    for yaw in np.deg2rad(np.arange(-90, 91, 5)):
        corners = Rotation.from_euler("z", yaw).apply(load.corners)
        extents = np.ptp(corners[:, :2] @ region.rotation[:2, flat], axis=0)
        excess = np.maximum(extents - region.half[flat], 0).sum()  # beyond half of the region
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
