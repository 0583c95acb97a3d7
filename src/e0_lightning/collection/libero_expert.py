"""A scripted expert for LIBERO that knows where everything is: it carries one object."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REACH, TURN = 0.05, 0.5
"""What one unit of action asks for: metres and radians."""

OPEN, SHUT = -1.0, 1.0

GAIN = 2.5
"""Share of the remaining way asked for in a step; the controller lags, so it may exceed 1."""

FINGER = 0.018
"""Radius of a finger that comes down, with some room, metres."""


class Waypoint(NamedTuple):
    """One leg of the way."""

    goal: Floats
    """Where the hand goes, ``(3,)``, metres in the world."""
    gripper: float
    tolerance: float
    """Metres from the goal at which the leg ends; 0 for a leg that lasts its time."""
    patience: int
    """Steps after which it ends anyway."""
    speed: float = 1.0
    """Largest action."""


class Grasp(NamedTuple):
    """Where and how to take an object."""

    point: Floats
    """Between the fingertips, ``(3,)``, metres in the world."""
    yaw: float
    """Turn of the finger axis from the world's y, radians."""


class PickAndPlace:
    """Carries one object to its place: hover, descend, close, lift, carry, lower, open, retreat.

    Objects that fit between the fingers are taken whole, across their narrowest side; open
    containers that do not are pinched by the rim, on the side with the most room.

    Args:
        world: LIBERO's environment of the task, settled.

    Raises:
        ValueError: If the task wants something else than one object in or on another.
    """

    def __init__(self, world: Any) -> None:
        self.scene = Scene(world)
        thing, place = wanted(world)
        grasp = self.scene.whole_grasp(thing) or self.scene.rim_grasp(thing)
        self.attitude = _about_z(grasp.yaw) @ np.diag([1.0, -1.0, -1.0])
        self.legs = self._plan(thing, place, grasp)
        self.leg, self.elapsed = 0, 0

    @property
    def finished(self) -> bool:
        """Whether all legs are done."""
        return self.leg == len(self.legs)

    def act(self, seen: dict[str, Any]) -> Floats:
        """The next action, ``(7,)``, from what is seen now."""
        from robosuite.utils.transform_utils import mat2quat, quat2axisangle, quat2mat

        leg = self.legs[self.leg]
        way = leg.goal - seen["robot0_eef_pos"]
        turn = quat2axisangle(mat2quat(self.attitude @ quat2mat(seen["robot0_eef_quat"]).T))
        action = np.zeros(7)
        action[:3] = np.clip(GAIN * way / REACH, -leg.speed, leg.speed)
        action[3:6] = np.clip(turn / TURN, -0.5, 0.5)
        action[6] = leg.gripper
        self.elapsed += 1
        there = np.linalg.norm(way) < leg.tolerance and (self.leg or np.linalg.norm(turn) < 0.12)
        if there or self.elapsed >= leg.patience:
            self.leg, self.elapsed = self.leg + 1, 0
        return action

    def _plan(self, thing: str, place: str, grasp: Grasp) -> list[Waypoint]:
        corners, point = self.scene.corners(thing), grasp.point
        low, high = corners.min(axis=0), corners.max(axis=0)
        hanging = point[2] - low[2]  # how far it reaches below the fingertips
        target, top = self.scene.place(place)
        offset = point[:2] - self.scene.position(thing)[:2]
        into = self.scene.is_region(place)
        clear = max(top + hanging + (0.05 if into else 0.08), point[2] + 0.10)
        release = top + hanging + (-0.02 if into else -0.002)
        above = np.array([*point[:2], max(high[2] + 0.06, point[2] + 0.08)])
        over, down = (np.array([*(target + offset), z]) for z in (clear, release))
        lifted = np.array([*point[:2], clear])
        return [
            Waypoint(above, OPEN, 0.010, 80),
            Waypoint(point, OPEN, 0.006, 50, speed=0.6),
            Waypoint(point, SHUT, 0.0, 12),
            Waypoint(lifted, SHUT, 0.02, 50),
            Waypoint(over, SHUT, 0.012, 100),
            Waypoint(down, SHUT, 0.010, 40),
            Waypoint(down, OPEN, 0.0, 10),
            Waypoint(over, OPEN, 0.02, 40),
        ]


class Scene:
    """Poses and extents of what stands around.

    Args:
        world: LIBERO's environment of a task.
    """

    def __init__(self, world: Any) -> None:
        self.domain = world.env
        self.sim = world.sim
        self.model, self.data = world.sim.model._model, world.sim.data._data

    def position(self, name: str) -> Floats:
        """Where an object is, ``(3,)``."""
        return np.array(self.sim.data.body_xpos[self.domain.obj_body_id[name]])

    def is_region(self, name: str) -> bool:
        """Whether it is a region of something, such as the inside of a basket."""
        return name in self.domain.object_sites_dict

    def place(self, name: str) -> tuple[Floats, float]:
        """Where to put something down: x and y, and the height of what is there, metres."""
        if not self.is_region(name):
            return self.position(name)[:2], float(self.corners(name)[:, 2].max())
        site = np.array(self.sim.data.get_site_xpos(name))
        owner = self.domain.object_sites_dict[name].parent_name
        top = self.corners(owner)[:, 2].max() if owner in self.domain.objects_dict else site[2]
        return site[:2], float(top)

    def corners(self, name: str) -> Floats:
        """Corners of an object's collision boxes, ``(8 n, 3)``."""
        ids = [self.model.geom(geom).id for geom in self.domain.get_object(name).contact_geoms]
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
        boxes = []
        for each in ids:
            middle, half = self.model.geom_aabb[each, :3], self.model.geom_aabb[each, 3:]
            turn = self.data.geom_xmat[each].reshape(3, 3)
            boxes.append(self.data.geom_xpos[each] + (signs * half + middle) @ turn.T)
        return np.concatenate(boxes)

    def whole_grasp(self, name: str) -> Grasp | None:
        """Take an object across its narrowest side; None if it is wider than the gripper."""
        corners = self.corners(name)
        low, high = corners.min(axis=0), corners.max(axis=0)
        yaws = np.deg2rad(np.arange(-90, 90, 3))
        axes = np.stack([-np.sin(yaws), np.cos(yaws)])
        widths = np.ptp(corners[:, :2] @ axes, axis=0)
        best = int(np.argmin(widths + 0.002 * np.abs(yaws)))  # turning the wrist takes time
        if widths[best] > 0.078:
            return None
        height = max(high[2] - 0.03, low[2] + 0.012, (low[2] + high[2]) / 2 - 0.005)
        middle = (low + high)[:2] / 2
        return Grasp(np.array([*middle, min(height, high[2] - 0.008)]), float(yaws[best]))

    def rim_grasp(self, name: str) -> Grasp:
        """Pinch the wall of an open container where the outer finger has most room."""
        corners, centre = self.corners(name), self.position(name)[:2]
        top = corners[:, 2].max()
        rim = corners[corners[:, 2] > top - 0.006][:, :2]
        radius = float(np.median(np.linalg.norm(rim - centre, axis=1))) - 0.004
        height = top - 0.018
        others = self._obstacles(name, height - 0.015)
        costs = {}
        for angle in np.deg2rad(np.arange(0, 360, 15)):
            side = np.array([np.cos(angle), np.sin(angle)])
            yaw = (angle - np.pi / 2 + np.pi / 2) % np.pi - np.pi / 2
            crowd = self._crowding(centre + radius * side, side, height, others)
            inwards = -np.sign(centre) @ side
            costs[angle, yaw] = 100 * crowd + 0.25 * abs(yaw) - 0.02 * inwards
        angle, yaw = min(costs, key=costs.__getitem__)
        point = centre + radius * np.array([np.cos(angle), np.sin(angle)])
        return Grasp(np.array([*point, height]), float(yaw))

    def _crowding(
        self, point: Floats, side: Floats, height: float, others: list[tuple[Floats, Floats]]
    ) -> float:
        """How far fingers and hand would reach into what stands around, metres added up."""
        crowd = 0.0
        for low, high in others:
            crowd += max(0.0, FINGER - _gap(point + 0.043 * side, low, high))
            if high[2] > height + 0.09:  # as high as the hand, which is 20 cm wide
                for across in np.linspace(-0.1, 0.1, 5):
                    crowd += max(0.0, 0.035 - _gap(point + across * side, low, high))
        return crowd

    def _obstacles(self, name: str, height: float) -> list[tuple[Floats, Floats]]:
        """Corners (low, high) of every other collision box that reaches above a height."""
        own = set(self.domain.get_object(name).contact_geoms)
        found = []
        for each in range(self.model.ngeom):
            solid = self.model.geom_contype[each] or self.model.geom_conaffinity[each]
            plane = self.model.geom_type[each] == 0
            body = self.model.body(self.model.geom_bodyid[each]).name
            robot = body.startswith(("robot0", "gripper0", "mount0"))
            if not solid or plane or robot or self.model.geom(each).name in own:
                continue
            turn = self.data.geom_xmat[each].reshape(3, 3)
            middle = self.data.geom_xpos[each] + turn @ self.model.geom_aabb[each, :3]
            half = np.abs(turn) @ self.model.geom_aabb[each, 3:]
            if middle[2] + half[2] > height and half[:2].max() < 0.45:  # wider: walls, tables
                found.append((middle - half, middle + half))
        return found


def wanted(world: Any) -> tuple[str, str]:
    """The object to carry and the place to put it, from the task's own goal.

    Raises:
        ValueError: If the goal is another one.
    """
    goals = world.env.parsed_problem["goal_state"]
    if len(goals) != 1 or goals[0][0].lower() not in ("in", "on"):
        spoken = " and ".join(" ".join(goal) for goal in goals)
        raise ValueError(
            f"the expert carries one object to one place, and this task wants: {spoken}"
        )
    return goals[0][1], goals[0][2]


def _gap(point: Floats, low: Floats, high: Floats) -> float:
    """Horizontal distance from a point to a box."""
    outside = np.maximum(low[:2] - point, point - high[:2])
    return float(np.linalg.norm(np.maximum(outside, 0)))


def _about_z(angle: float) -> Floats:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
