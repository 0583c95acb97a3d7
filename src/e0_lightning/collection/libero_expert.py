"""Scripted expert for LIBERO that carries one object, with access to the simulator state."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]

ACTION_SCALE, ROTATION_SCALE = 0.05, 0.5
"""Displacement of one unit of action: metres and radians."""

GRIPPER_OPEN, GRIPPER_CLOSE = -1.0, 1.0

GAIN = 2.5
"""Fraction of the remaining distance requested per step; the controller lags, so it exceeds 1."""

FINGER_RADIUS = 0.018
"""Radius of a descending finger with clearance, metres."""

MAX_GRASP_WIDTH = 0.078
"""Width of the widest object that fits between the fingers, metres."""


class Waypoint(NamedTuple):
    """Target of one phase of the motion."""

    position: Floats
    """Of the end effector, ``(3,)``, metres, world frame."""
    gripper: float
    """Gripper action."""
    tolerance: float
    """Distance to `position` at which the phase ends, metres; 0 for a phase of fixed duration."""
    max_steps: int
    """Steps after which the phase ends in any case."""
    speed: float = 1.0
    """Largest translation action."""


class Grasp(NamedTuple):
    """Pose of the gripper on an object."""

    point: Floats
    """Between the fingertips, ``(3,)``, metres, world frame."""
    yaw: float
    """Angle from the world's y axis to the finger axis, radians."""


class PickAndPlace:
    """Carries one object: hover, descend, close, lift, carry, lower, open, retreat.

    Objects that fit between the fingers are grasped across their narrowest side; wider open
    containers are grasped at the rim, on the side with the most clearance.

    Args:
        env: LIBERO's environment of the task, settled.

    Raises:
        ValueError: If the goal of the task is not one object in or on another.
    """

    def __init__(self, env: Any) -> None:
        self.scene = Scene(env)
        item, destination = pick_and_place_goal(env)
        grasp = self.scene.side_grasp(item) or self.scene.rim_grasp(item)
        pointing_down = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))
        self.orientation = Rotation.from_euler("z", grasp.yaw) * pointing_down
        self.waypoints = self._plan(item, destination, grasp)
        self.phase, self.elapsed = 0, 0

    @property
    def finished(self) -> bool:
        """Whether all waypoints are done."""
        return self.phase == len(self.waypoints)

    def act(self, observed: dict[str, Any]) -> Floats:
        """Return the next action, ``(7,)``, for LIBERO's current observation."""
        waypoint = self.waypoints[self.phase]
        distance = waypoint.position - observed["robot0_eef_pos"]
        current = Rotation.from_quat(observed["robot0_eef_quat"])
        rotation = (self.orientation * current.inv()).as_rotvec()
        action = np.zeros(7)
        action[:3] = np.clip(GAIN * distance / ACTION_SCALE, -waypoint.speed, waypoint.speed)
        action[3:6] = np.clip(rotation / ROTATION_SCALE, -0.5, 0.5)
        action[6] = waypoint.gripper
        self.elapsed += 1
        reached = np.linalg.norm(distance) < waypoint.tolerance
        aligned = self.phase > 0 or np.linalg.norm(rotation) < 0.12
        if (reached and aligned) or self.elapsed >= waypoint.max_steps:
            self.phase, self.elapsed = self.phase + 1, 0
        return action

    def _plan(self, item: str, destination: str, grasp: Grasp) -> list[Waypoint]:
        corners, point = self.scene.corners(item), grasp.point
        low, high = corners.min(axis=0), corners.max(axis=0)
        below_fingers = point[2] - low[2]
        target, top = self.scene.destination(destination)
        offset = point[:2] - self.scene.position(item)[:2]
        is_region = self.scene.is_region(destination)
        clear = max(top + below_fingers + (0.05 if is_region else 0.08), point[2] + 0.10)
        release = top + below_fingers + (-0.02 if is_region else -0.002)
        above = np.array([*point[:2], max(high[2] + 0.06, point[2] + 0.08)])
        over, down = (np.array([*(target + offset), z]) for z in (clear, release))
        lifted = np.array([*point[:2], clear])
        return [
            Waypoint(above, GRIPPER_OPEN, 0.010, 80),
            Waypoint(point, GRIPPER_OPEN, 0.006, 50, speed=0.6),
            Waypoint(point, GRIPPER_CLOSE, 0.0, 12),
            Waypoint(lifted, GRIPPER_CLOSE, 0.02, 50),
            Waypoint(over, GRIPPER_CLOSE, 0.012, 100),
            Waypoint(down, GRIPPER_CLOSE, 0.010, 40),
            Waypoint(down, GRIPPER_OPEN, 0.0, 10),
            Waypoint(over, GRIPPER_OPEN, 0.02, 40),
        ]


class Scene:
    """Poses and extents of the objects.

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

    def is_region(self, name: str) -> bool:
        """Whether a name is a region of an object, such as the inside of a basket."""
        return name in self.domain.object_sites_dict

    def destination(self, name: str) -> tuple[Floats, float]:
        """Return x and y of a destination, and the height of its surface, metres."""
        if not self.is_region(name):
            return self.position(name)[:2], float(self.corners(name)[:, 2].max())
        site = np.array(self.sim.data.get_site_xpos(name))
        owner = self.domain.object_sites_dict[name].parent_name
        top = self.corners(owner)[:, 2].max() if owner in self.domain.objects_dict else site[2]
        return site[:2], float(top)

    def corners(self, name: str) -> Floats:
        """Return the corners of an object's collision boxes, ``(8 n, 3)``."""
        ids = [self.model.geom(geom).id for geom in self.domain.get_object(name).contact_geoms]
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
        boxes = []
        for geom in ids:
            center, half = self.model.geom_aabb[geom, :3], self.model.geom_aabb[geom, 3:]
            rotation = self.data.geom_xmat[geom].reshape(3, 3)
            boxes.append(self.data.geom_xpos[geom] + (signs * half + center) @ rotation.T)
        return np.concatenate(boxes)

    def side_grasp(self, name: str) -> Grasp | None:
        """Grasp an object across its narrowest side; None if it is wider than the gripper."""
        corners = self.corners(name)
        low, high = corners.min(axis=0), corners.max(axis=0)
        yaws = np.deg2rad(np.arange(-90, 90, 3))
        axes = np.stack([-np.sin(yaws), np.cos(yaws)])
        widths = np.ptp(corners[:, :2] @ axes, axis=0)
        best = int(np.argmin(widths + 0.002 * np.abs(yaws)))  # large wrist rotations take time
        if widths[best] > MAX_GRASP_WIDTH:
            return None
        height = max(high[2] - 0.03, low[2] + 0.012, (low[2] + high[2]) / 2 - 0.005)
        center = (low + high)[:2] / 2
        return Grasp(np.array([*center, min(height, high[2] - 0.008)]), float(yaws[best]))

    def rim_grasp(self, name: str) -> Grasp:
        """Grasp the wall of an open container where the outer finger has the most clearance."""
        corners, center = self.corners(name), self.position(name)[:2]
        top = corners[:, 2].max()
        rim = corners[corners[:, 2] > top - 0.006][:, :2]
        radius = float(np.median(np.linalg.norm(rim - center, axis=1))) - 0.004
        height = top - 0.018
        obstacles = self._obstacles(name, height - 0.015)
        costs = {}
        for angle in np.deg2rad(np.arange(0, 360, 15)):
            side = np.array([np.cos(angle), np.sin(angle)])
            yaw = (angle - np.pi / 2 + np.pi / 2) % np.pi - np.pi / 2
            overlap = _overlap(center + radius * side, side, height, obstacles)
            inwards = -np.sign(center) @ side
            costs[angle, yaw] = 100 * overlap + 0.25 * abs(yaw) - 0.02 * inwards
        angle, yaw = min(costs, key=costs.__getitem__)
        point = center + radius * np.array([np.cos(angle), np.sin(angle)])
        return Grasp(np.array([*point, height]), float(yaw))

    def _obstacles(self, name: str, height: float) -> list[tuple[Floats, Floats]]:
        """Return corners (low, high) of all other collision boxes that reach above a height."""
        own = set(self.domain.get_object(name).contact_geoms)
        boxes = []
        for geom in range(self.model.ngeom):
            solid = self.model.geom_contype[geom] or self.model.geom_conaffinity[geom]
            plane = self.model.geom_type[geom] == 0
            body = self.model.body(self.model.geom_bodyid[geom]).name
            robot = body.startswith(("robot0", "gripper0", "mount0"))
            if not solid or plane or robot or self.model.geom(geom).name in own:
                continue
            rotation = self.data.geom_xmat[geom].reshape(3, 3)
            center = self.data.geom_xpos[geom] + rotation @ self.model.geom_aabb[geom, :3]
            half = np.abs(rotation) @ self.model.geom_aabb[geom, 3:]
            if center[2] + half[2] > height and half[:2].max() < 0.45:  # wider: walls, tables
                boxes.append((center - half, center + half))
        return boxes


def pick_and_place_goal(env: Any) -> tuple[str, str]:
    """Return the object to carry and its destination, from the goal of the task.

    Raises:
        ValueError: If the goal has another form.
    """
    goals = env.env.parsed_problem["goal_state"]
    if len(goals) != 1 or goals[0][0].lower() not in ("in", "on"):
        goal = " and ".join(" ".join(predicate) for predicate in goals)
        raise ValueError(f"expected a goal with one object in or on another, got: {goal}")
    return goals[0][1], goals[0][2]


def _overlap(
    point: Floats, side: Floats, height: float, obstacles: list[tuple[Floats, Floats]]
) -> float:
    """Return how far the fingers and the hand would reach into obstacles, metres summed up."""
    overlap = 0.0
    for low, high in obstacles:
        overlap += max(0.0, FINGER_RADIUS - _gap(point + 0.043 * side, low, high))
        if high[2] > height + 0.09:  # as high as the hand, which is 20 cm wide
            for across in np.linspace(-0.1, 0.1, 5):
                overlap += max(0.0, 0.035 - _gap(point + across * side, low, high))
    return overlap


def _gap(point: Floats, low: Floats, high: Floats) -> float:
    """Return the horizontal distance from a point to a box."""
    outside = np.maximum(low[:2] - point, point - high[:2])
    return float(np.linalg.norm(np.maximum(outside, 0)))
