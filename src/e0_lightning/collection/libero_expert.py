"""Scripted expert for LIBERO: plans skills from the goal of a task, with privileged state."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from e0_lightning.collection.libero_gripper import Pose
from e0_lightning.collection.libero_scene import Floats, Joint, Scene
from e0_lightning.collection.libero_skills import (
    Skill,
    Waypoint,
    close_drawer,
    open_drawer,
    pick,
    place,
    push,
    turn,
    widen_drawer,
)

ACTION_SCALE, ROTATION_SCALE = 0.05, 0.5
"""Displacement of one unit of action: metres and radians."""

GAIN = 2.5
"""Fraction of the remaining distance requested per step; the controller lags, so it exceeds 1."""

MAX_ROTATION = 0.5
"""Largest rotation action."""

ALIGNED = 0.12
"""Rotation from the orientation of a waypoint below which it counts as reached, radians."""

STILL, BLOCKED_STEPS = 0.0005, 5
"""A gripper that moves less than this, metres a step, for this many steps is blocked."""

HALF_OPEN, FULLY_OPEN = -0.1, -0.155
"""Displacements from which a drawer is pulled from inside, and not at all, metres."""


class LiberoExpert:
    """Reaches the goal of a task by skills, each planned from the state in which it begins.

    Args:
        env: LIBERO's environment of the task, settled.

    Raises:
        ValueError: If a predicate of the goal is one that no skill achieves.
    """

    def __init__(self, env: Any) -> None:
        self.scene = Scene(env)
        self.skills = plan(self.scene, env.env.parsed_problem["goal_state"])
        self.waypoints: list[Waypoint] = []
        self.elapsed, self.blocked = 0, 0
        self.last = Pose(np.zeros(3), Rotation.identity())

    @property
    def finished(self) -> bool:
        """Whether all skills are done."""
        return not self.skills and not self.waypoints

    def act(self, observed: dict[str, Any]) -> Floats:
        """Return the next action, ``(7,)``, for LIBERO's current observation."""
        position = np.array(observed["robot0_eef_pos"])
        hand = Pose(position, Rotation.from_quat(observed["robot0_eef_quat"]))
        if not self.waypoints:
            self.waypoints = self.skills.pop(0)(self.scene, hand)
        waypoint = self.waypoints[0]
        distance = waypoint.position - hand.position
        rotation = (waypoint.orientation * hand.orientation.inv()).as_rotvec()
        action = np.zeros(7)
        action[:3] = np.clip(GAIN * distance / ACTION_SCALE, -waypoint.speed, waypoint.speed)
        action[3:6] = np.clip(rotation / ROTATION_SCALE, -MAX_ROTATION, MAX_ROTATION)
        action[6] = waypoint.gripper
        if self._is_over(waypoint, hand, float(np.linalg.norm(distance)), rotation):
            self.waypoints, self.elapsed, self.blocked = self.waypoints[1:], 0, 0
        return action

    def _is_over(self, waypoint: Waypoint, hand: Pose, distance: float, rotation: Floats) -> bool:
        """Whether a phase is over: reached, blocked by a contact, or out of time."""
        self.elapsed += 1
        turned = (hand.orientation * self.last.orientation.inv()).magnitude()
        moved = np.linalg.norm(hand.position - self.last.position) + 0.05 * turned
        self.last = hand
        self.blocked = self.blocked + 1 if moved < STILL else 0
        reached = distance < waypoint.tolerance and np.linalg.norm(rotation) < ALIGNED
        stuck = waypoint.tolerance > 0 and self.blocked == BLOCKED_STEPS
        return bool(reached or stuck or self.elapsed >= waypoint.max_steps)


class Facts(Protocol):
    """What planning needs to know of a scene; see `Scene`."""

    def holds(self, predicate: list[str]) -> bool:
        """Whether a predicate of the goal holds now."""
        ...

    def joint(self, name: str) -> Joint | None:
        """Return the joint that moves a region or a fixture; None if it stands still."""
        ...

    def is_covered(self, region: str) -> bool:
        """Whether something is above a region, so that nothing can be lowered into it."""
        ...

    def is_flat(self, item: str) -> bool:
        """Whether an object is too wide for the gripper and too low to be grasped by its rim."""
        ...


def plan(scene: Facts, goal: list[list[str]]) -> list[Skill]:
    """Plan skills that achieve a goal: first open and turn, then carry, then close.

    Args:
        scene: The scene at the start.
        goal: Predicates such as ``[on, bowl_1, plate_1]``; those that hold already are left alone.

    Returns:
        The skills in order.

    Raises:
        ValueError: If no skill achieves one of the predicates.
    """
    first: list[Skill] = []
    carried: list[Skill] = []
    last: list[Skill] = []
    places = [predicate[2] for predicate in goal if predicate[0] in ("in", "on")]
    sides = {name: _sides(places.count(name)) for name in places}
    for predicate in goal:
        verb, name, *rest = predicate
        joint = scene.joint(rest[0] if rest else name)
        is_drawer = joint is not None and joint.slides
        if scene.holds(predicate):
            continue
        if verb == "turnon" and joint is not None and not is_drawer:
            first.append(partial(turn, name))
        elif verb == "open" and is_drawer:
            first.append(partial(open_drawer, name))
        elif verb == "close" and is_drawer:
            last.append(partial(close_drawer, name))
        elif verb in ("in", "on") and (is_drawer or not scene.is_covered(rest[0])):
            if joint is not None and joint.value > FULLY_OPEN:
                opens = joint.value > HALF_OPEN
                first.append(partial(open_drawer if opens else widen_drawer, rest[0]))
            if scene.is_flat(name):
                carried.append(partial(push, name, rest[0]))
            else:
                side = sides[rest[0]].pop(0)
                carried += [partial(pick, name, rest[0]), partial(place, name, rest[0], side)]
        else:
            raise ValueError(
                "expected a goal of objects to carry to places that are open at the top, drawers "
                f"to open or close and knobs to turn, got: {' '.join(predicate)}"
            )
    return first + carried + last


def _sides(count: int) -> list[float]:
    """Return where in a region each of several objects goes, from -1 to 1."""
    return [0.0] if count == 1 else np.linspace(-1, 1, count).tolist()
