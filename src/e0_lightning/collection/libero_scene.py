"""Privileged state of a LIBERO scene: poses, collision boxes, regions and joints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FURNITURE = 0.45
"""Half extent from which a collision box is a wall or a table, metres."""

MAX_GRASP_WIDTH = 0.078
"""Width of the widest object that fits between the fingers, metres."""

FLAT = 0.03
"""Height below which a rim cannot be grasped, metres."""

COVER = 0.05
"""Height above a region at which something supports or surrounds it rather than covers it."""

LEVEL = 0.98
"""Cosine of the steepest slope on which an object stays."""

ROBOT = ("robot0", "gripper0", "mount0")


class Boxes(NamedTuple):
    """Oriented boxes around collision shapes, world frame, metres."""

    center: Floats
    """``(n, 3)``"""
    half: Floats
    """Half extents, ``(n, 3)``."""
    rotation: Floats
    """From box to world, ``(n, 3, 3)``."""

    def corners(self) -> Floats:
        """Return the corners, ``(n, 8, 3)``."""
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
        local = signs * self.half[:, None]
        corners: Floats = self.center[:, None] + np.einsum("nij,npj->npi", self.rotation, local)
        return corners

    def tops(self) -> Floats:
        """Return the greatest height of each, ``(n,)``."""
        half_heights = np.einsum("nj,nj->n", abs(self.rotation[:, 2]), self.half)
        return np.asarray(self.center[:, 2] + half_heights)

    def distance(self, points: Floats) -> Floats:
        """Return signed distances to points ``(p, 3)``, negative inside, ``(n, p)``."""
        offset = points - self.center[:, None]
        local = np.einsum("nij,npi->npj", self.rotation, offset)
        beyond = abs(local) - self.half[:, None]
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
        return np.asarray(outside + np.minimum(beyond.max(axis=-1), 0))

    def below(self, points: Floats) -> NDArray[np.bool_]:
        """Return which boxes lie below or above any of the points, ``(p, 2)``; ``(n,)``."""
        offset = np.zeros((len(self.center), len(points), 3))
        offset[..., :2] = points - self.center[:, None, :2]
        local = np.einsum("nij,npi->npj", self.rotation, offset)
        inside: NDArray[np.bool_] = (abs(local) <= self.half[:, None]).all(axis=-1).any(axis=1)
        return inside

    def select(self, mask: NDArray[np.bool_]) -> Boxes:
        """Return the boxes where a mask holds."""
        return Boxes(self.center[mask], self.half[mask], self.rotation[mask])


class Region(NamedTuple):
    """A site of LIBERO that contains or supports objects."""

    center: Floats
    """``(3,)``, metres, world frame."""
    half: Floats
    """Half extents along its own axes, ``(3,)``."""
    rotation: Floats
    """From region to world, ``(3, 3)``."""
    owner: str
    """Object or fixture that it belongs to, empty for a region of the table."""


class Joint(NamedTuple):
    """The joint of a drawer, a door or a knob."""

    value: float
    """Metres or radians."""
    axis: Floats
    """Of sliding or turning, ``(3,)``, world frame."""
    anchor: Floats
    """A point on the axis, ``(3,)``."""
    slides: bool
    boxes: Boxes
    """Of the part that moves."""


class Scene:
    """State of the objects, read from the simulator at every call.

    Args:
        env: LIBERO's environment of a task.
    """

    def __init__(self, env: Any) -> None:
        self.domain = env.env
        self.sim = env.sim
        self.model, self.data = env.sim.model._model, env.sim.data._data

    def position(self, name: str) -> Floats:
        """Return the position of an object, ``(3,)``, metres, world frame."""
        return np.array(self.sim.data.body_xpos[self.domain.obj_body_id[name]])

    def rotation(self, name: str) -> Floats:
        """Return the rotation of an object to the world, ``(3, 3)``."""
        matrix = self.sim.data.body_xmat[self.domain.obj_body_id[name]]
        return np.array(matrix).reshape(3, 3)

    def is_region(self, name: str) -> bool:
        """Whether a name is a region, such as the inside of a basket, not an object."""
        return name in self.domain.object_sites_dict

    def is_movable(self, name: str) -> bool:
        """Whether a name is an object that can be carried."""
        return name in self.domain.objects_dict

    def holds(self, predicate: list[str]) -> bool:
        """Whether a predicate of the goal holds now."""
        return bool(self.domain._eval_predicate(predicate))

    def is_covered(self, region: str) -> bool:
        """Whether something is above a region, so that nothing can be lowered into it."""
        if not self.is_region(region):
            return False
        box = self.region(region)
        height = float(abs(box.rotation[2]) @ box.half)
        return self.support(box.center[None, :2]) > float(box.center[2]) + height + COVER

    def is_flat(self, item: str) -> bool:
        """Whether an object is too wide for the gripper and too low to be grasped by its rim."""
        extents = np.ptp(self.corners(item), axis=0)
        return bool(extents[:2].min() > MAX_GRASP_WIDTH and extents[2] < FLAT)

    def region(self, name: str) -> Region:
        """Return a region."""
        site = self.domain.object_sites_dict[name]
        return Region(
            np.array(self.sim.data.get_site_xpos(name)),
            np.array(site.size, dtype=np.float64),
            np.array(self.sim.data.get_site_xmat(name)),
            site.parent_name or "",
        )

    def joint(self, name: str) -> Joint | None:
        """Return the joint that moves a region or a fixture; None if it stands still."""
        thing = self.domain.object_sites_dict.get(name) or self.domain.get_object(name)
        if self.is_movable(name) or not thing.joints:
            return None
        joint = self.model.joint(thing.joints[0])
        body = int(joint.bodyid[0])
        return Joint(
            float(self.data.qpos[joint.qposadr[0]]),
            np.array(self.data.xaxis[joint.id]),
            np.array(self.data.xanchor[joint.id]),
            int(joint.type[0]) == 2,  # mjJNT_SLIDE
            self._boxes([geom for geom in self._solid() if self.model.geom_bodyid[geom] == body]),
        )

    def boxes(self, name: str) -> Boxes:
        """Return the collision boxes of an object or a fixture."""
        return self._boxes(sorted(self._shapes([name])))

    def corners(self, name: str) -> Floats:
        """Return the corners of the collision boxes of an object or a fixture, ``(n, 3)``."""
        return self.boxes(name).corners().reshape(-1, 3)

    def obstacles(self, *without: str) -> Boxes:
        """Return all collision boxes but those of robot, tables, walls and some objects."""
        skipped = self._shapes(without)
        boxes = self._boxes([geom for geom in self._solid() if geom not in skipped])
        return boxes.select(boxes.half.max(axis=1) < FURNITURE)

    def support(self, points: Floats, *without: str) -> float:
        """Return the height of what lies below or above any of the points, ``(p, 2)``, metres."""
        skipped = self._shapes(without)
        boxes = self._boxes([geom for geom in self._solid() if geom not in skipped])
        return float(max(boxes.tops()[boxes.below(points)], default=0.0))

    def is_level(self, region: str) -> bool:
        """Whether a region is horizontal, so that an object released on it stays where it is."""
        return bool(abs(self.region(region).rotation[2]).max() > LEVEL)

    def highest(self, start: Floats, end: Floats, width: float, *without: str) -> float:
        """Return the height of the highest obstacle within `width` of a path, metres; 0 if none."""
        boxes = self.obstacles(*without)
        along = np.linspace(0, 1, 12)[:, None]
        points = start[:2] + along * (end - start)[:2]
        radius = np.linalg.norm(boxes.half[:, :2], axis=1)[:, None]  # loose for long boxes
        near = np.linalg.norm(boxes.center[:, None, :2] - points, axis=-1) < radius + width
        tops = boxes.tops()
        levels = np.concatenate([points[:, :2], np.zeros((len(points), 1))], axis=1)
        flat = boxes.center.copy()
        flat[:, 2] = 0
        close = Boxes(flat, boxes.half, boxes.rotation).distance(levels) < width
        return float(max(tops[(near & close).any(axis=1)], default=0.0))

    def _shapes(self, names: Iterable[str]) -> set[int]:
        """Return the collision shapes of objects and fixtures."""
        geoms = [geom for name in names for geom in self.domain.get_object(name).contact_geoms]
        return {self.model.geom(geom).id for geom in geoms}

    def _solid(self) -> list[int]:
        """Return the shapes that collide, without planes and the robot."""
        return [
            geom
            for geom in range(self.model.ngeom)
            if (self.model.geom_contype[geom] or self.model.geom_conaffinity[geom])
            and self.model.geom_type[geom] != 0  # mjGEOM_PLANE
            and not self.model.body(self.model.geom_bodyid[geom]).name.startswith(ROBOT)
        ]

    def _boxes(self, geoms: list[int]) -> Boxes:
        rotation = self.data.geom_xmat[geoms].reshape(-1, 3, 3)
        offset = np.einsum("nij,nj->ni", rotation, self.model.geom_aabb[geoms, :3])
        return Boxes(
            self.data.geom_xpos[geoms] + offset, self.model.geom_aabb[geoms, 3:], rotation.copy()
        )
