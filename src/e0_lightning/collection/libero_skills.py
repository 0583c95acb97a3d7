"""Skills of the scripted LIBERO expert: from the present state to waypoints of the gripper."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from e0_lightning.collection.libero_grasps import choose_grasp
from e0_lightning.collection.libero_gripper import FINGERTIP, LEAN, Pose, facing_down
from e0_lightning.collection.libero_placement import Load, choose_placement
from e0_lightning.collection.libero_scene import Floats, Joint, Scene

GRIPPER_OPEN, GRIPPER_CLOSE = -1.0, 1.0

UP = np.array([0.0, 0.0, 1.0])

CLEARANCE = 0.03
"""Height of a carried object above the obstacles on its way, metres."""

FINGER_SPREAD, FINGER_THICKNESS = 0.04, 0.012
"""Half of the distance between open fingers, and half of the thickness of a leaning one, metres."""

STOP = 0.158
"""Displacement of a drawer that is fully open, just before its stop, metres."""

TURN = 1.0
"""Rotation of a knob, radians; a stove is on from 0.5."""


class Waypoint(NamedTuple):
    """Target of one phase of the motion."""

    position: Floats
    """Of the end effector, ``(3,)``, metres, world frame."""
    orientation: Rotation
    """From gripper to world."""
    gripper: float
    """Gripper action."""
    tolerance: float
    """Distance to `position` at which the phase ends, metres; 0 for a phase of fixed duration."""
    max_steps: int
    """Steps after which the phase ends in any case."""
    speed: float = 1.0
    """Largest translation action."""


Skill = Callable[[Scene, Pose], list[Waypoint]]
"""Plans a skill when it begins; see the functions of this module, without their first arguments."""


def pick(item: str, destination: str, scene: Scene, hand: Pose) -> list[Waypoint]:
    """Grasp an object and lift it.

    Args:
        item: The object.
        destination: Where it is to go: for a drawer, the hand stays away from the furniture.
        scene: The scene.
        hand: The gripper when the skill begins.
    """
    joint = scene.joint(destination)
    grasp = choose_grasp(scene, item, np.zeros(3) if joint is None else -0.5 * joint.axis)
    point, turned = grasp.position, grasp.orientation
    top = scene.corners(item)[:, 2].max()
    above = point + max(top + 0.06 - point[2], 0.08) * grasp.backwards()
    # A hand that leans away from an overhang withdraws the object from under it first.
    upright = grasp.backwards()[2] > 0.99
    lifted = point + (0.1 if upright else 0.16) * grasp.backwards()
    return [
        *_travel(scene, hand, above, turned),
        Waypoint(above, turned, GRIPPER_OPEN, 0.010, 80),
        Waypoint(point, turned, GRIPPER_OPEN, 0.006, 50, speed=0.6),
        Waypoint(point, turned, GRIPPER_CLOSE, 0.0, 12),
        Waypoint(lifted, turned, GRIPPER_CLOSE, 0.02, 30),
    ]


def place(item: str, destination: str, side: float, scene: Scene, hand: Pose) -> list[Waypoint]:
    """Carry the object in the gripper to its destination, and release it unless it would slide.

    Args:
        item: The object.
        destination: Object or region.
        side: Where in a region that several objects share, from -1 to 1; 0 for its middle.
        scene: The scene with the object in the gripper.
        hand: The gripper when the skill begins.
    """
    load = Load(
        item,
        scene.corners(item) - hand.position,
        scene.position(item) - hand.position,
        hand.orientation,
    )
    down, turned = choose_placement(scene, load, destination, side)
    below = -load.corners[:, 2].min()
    way = scene.highest(hand.position, down, 0.09, item)
    clear = max(way + below + CLEARANCE, down[2] + 0.06, hand.position[2])
    lifted, over = (np.array([*point[:2], clear]) for point in (hand.position, down))
    carried = [
        Waypoint(lifted, hand.orientation, GRIPPER_CLOSE, 0.02, 50),
        Waypoint(over, turned, GRIPPER_CLOSE, 0.012, 100),
        Waypoint(down, turned, GRIPPER_CLOSE, 0.010, 40),
    ]
    if scene.is_region(destination) and not scene.is_level(destination):
        return [*carried, Waypoint(down - 0.01 * UP, turned, GRIPPER_CLOSE, 0.0, 8)]
    return [
        *carried,
        Waypoint(down, turned, GRIPPER_OPEN, 0.0, 10),
        Waypoint(over, turned, GRIPPER_OPEN, 0.02, 40),
    ]


def push(item: str, destination: str, scene: Scene, hand: Pose) -> list[Waypoint]:
    """Slide a flat, round object to a region, with both fingers behind it and the hand above it."""
    corners = scene.corners(item)
    low, high = corners.min(axis=0), corners.max(axis=0)
    center, radius = (low + high)[:2] / 2, (high - low)[:2].min() / 2
    way = scene.region(destination).center[:2] - center
    ahead = way / np.linalg.norm(way)
    yaw = float((np.arctan2(ahead[1], ahead[0]) + np.pi / 2) % np.pi - np.pi / 2)
    turned = max(
        (facing_down(yaw, lean) for lean in (LEAN, -LEAN)),
        key=lambda option: float(Pose(low, option).backwards()[:2] @ ahead),
    )
    behind = np.sqrt(radius**2 - FINGER_SPREAD**2) + FINGER_THICKNESS
    touching = np.array([*(center - behind * ahead), low[2] + 0.004 + FINGERTIP])
    start = touching - 0.015 * np.array([*ahead, 0.0])
    end = touching + np.array([*way, 0.0])
    back = 0.1 * Pose(start, turned).backwards()
    above = start + back
    return [
        *_travel(scene, hand, above, turned),
        Waypoint(above, turned, GRIPPER_OPEN, 0.010, 80),
        Waypoint(start, turned, GRIPPER_OPEN, 0.006, 40, speed=0.6),
        Waypoint(end, turned, GRIPPER_OPEN, 0.008, 120, speed=0.4),
        Waypoint(end + 0.12 * UP, turned, GRIPPER_OPEN, 0.02, 40),
    ]


def open_drawer(region: str, scene: Scene, hand: Pose) -> list[Waypoint]:
    """Pull a drawer by its handle, with a horizontal gripper, its fingers above and below."""
    joint = _sliding_joint(scene, region)
    outwards = -joint.axis
    handle = _handle(joint, outwards)
    turned = _facing(-outwards, UP)
    before = handle + 0.08 * outwards
    pulled = handle + (STOP + joint.value) * outwards
    free = pulled + 0.07 * outwards
    return [
        Waypoint(before, turned, GRIPPER_OPEN, 0.015, 90),
        Waypoint(handle, turned, GRIPPER_OPEN, 0.008, 40, speed=0.6),
        Waypoint(handle, turned, GRIPPER_CLOSE, 0.0, 10),
        Waypoint(pulled, turned, GRIPPER_CLOSE, 0.010, 60, speed=0.6),
        Waypoint(pulled, turned, GRIPPER_OPEN, 0.0, 8),
        Waypoint(free, turned, GRIPPER_OPEN, 0.02, 30),
        Waypoint(free + 0.15 * UP, turned, GRIPPER_OPEN, 0.03, 30),
    ]


def widen_drawer(region: str, scene: Scene, hand: Pose) -> list[Waypoint]:
    """Pull an open drawer to its stop, with closed fingers behind its front."""
    joint = _sliding_joint(scene, region)
    outwards = -joint.axis
    inside = _handle(joint, outwards) - 0.055 * outwards
    inside[2] = joint.boxes.tops().max() - 0.02 + FINGERTIP
    turned = _facing(-UP, np.cross(outwards, UP))
    above = inside + 0.08 * UP
    pulled = inside + (STOP + joint.value + 0.012) * outwards
    return [
        *_travel(scene, hand, above, turned, GRIPPER_CLOSE),
        Waypoint(above, turned, GRIPPER_CLOSE, 0.010, 80),
        Waypoint(inside, turned, GRIPPER_CLOSE, 0.008, 40, speed=0.6),
        Waypoint(pulled, turned, GRIPPER_CLOSE, 0.006, 30, speed=0.5),
        Waypoint(pulled + 0.1 * UP, turned, GRIPPER_OPEN, 0.02, 40),
    ]


def close_drawer(region: str, scene: Scene, hand: Pose) -> list[Waypoint]:
    """Push a drawer shut at its handle, with closed fingers that point down at an angle."""
    joint = _sliding_joint(scene, region)
    outwards = -joint.axis
    handle = _handle(joint, outwards)
    turned = _facing(-outwards - 1.6 * UP, np.cross(outwards, UP))
    before = handle + 0.06 * outwards
    above = before + 0.15 * UP
    shut = handle + (joint.value - 0.012) * outwards
    return [
        *_travel(scene, hand, above, turned, GRIPPER_CLOSE),
        Waypoint(above, turned, GRIPPER_CLOSE, 0.02, 80),
        Waypoint(before, turned, GRIPPER_CLOSE, 0.010, 40),
        Waypoint(shut, turned, GRIPPER_CLOSE, 0.010, 50, speed=0.6),
        Waypoint(shut + 0.1 * outwards, turned, GRIPPER_CLOSE, 0.03, 20),
    ]


def turn(fixture: str, scene: Scene, hand: Pose) -> list[Waypoint]:
    """Turn a knob by the ridge on it."""
    joint = scene.joint(fixture)
    assert joint is not None
    corners = joint.boxes.corners()
    tops = corners[..., 2].max(axis=1)
    ridge = corners[int(np.argmax(tops))]
    along = ridge - ridge.mean(axis=0)
    _, vectors = np.linalg.eigh(along[:, :2].T @ along[:, :2])
    yaw = float(np.arctan2(vectors[1, 1], vectors[0, 1]))  # fingers across the longest side
    yaw = (yaw + np.pi / 2) % np.pi - np.pi / 2
    point = np.array([*joint.anchor[:2], tops.max() - 0.018])
    start, turned = facing_down(yaw), facing_down(yaw + TURN)
    above = point + 0.08 * UP
    return [
        *_travel(scene, hand, above, start),
        Waypoint(above, start, GRIPPER_OPEN, 0.010, 80),
        Waypoint(point, start, GRIPPER_OPEN, 0.006, 40, speed=0.6),
        Waypoint(point, start, GRIPPER_CLOSE, 0.0, 10),
        Waypoint(point, turned, GRIPPER_CLOSE, 0.010, 30),
        Waypoint(point, turned, GRIPPER_OPEN, 0.0, 8),
        Waypoint(above, turned, GRIPPER_OPEN, 0.02, 30),
    ]


def _travel(
    scene: Scene, hand: Pose, end: Floats, turned: Rotation, gripper: float = GRIPPER_OPEN
) -> list[Waypoint]:
    """Return what to pass first so that the empty gripper clears what stands in between."""
    safe = scene.highest(hand.position, end, 0.06) + FINGERTIP + 0.02
    if min(hand.position[2], end[2]) > safe:
        return []
    risen = np.array([*hand.position[:2], max(safe, hand.position[2])])
    over = np.array([*end[:2], max(safe, end[2])])
    waypoints = []
    if hand.position[2] < safe:
        waypoints.append(Waypoint(risen, hand.orientation, gripper, 0.03, 40))
    if end[2] < safe:
        waypoints.append(Waypoint(over, turned, gripper, 0.03, 80))
    return waypoints


def _sliding_joint(scene: Scene, region: str) -> Joint:
    joint = scene.joint(region)
    assert joint is not None
    assert joint.slides
    return joint


def _handle(joint: Joint, outwards: Floats) -> Floats:
    """Return the middle of the box that sticks out most, ``(3,)``."""
    reach = (joint.boxes.corners() @ outwards).max(axis=1)
    return np.array(joint.boxes.center[int(np.argmax(reach))])


def _facing(direction: Floats, fingers: Floats) -> Rotation:
    """Return the orientation that points along a direction, of two the one nearer to facing down.

    Args:
        direction: Of the fingers, ``(3,)``, any length.
        fingers: From one finger to the other, ``(3,)``, any length and sign.
    """
    z = direction / np.linalg.norm(direction)
    y = fingers - (fingers @ z) * z
    y /= np.linalg.norm(y)
    options = [
        Rotation.from_matrix(np.stack([np.cross(side, z), side, z], axis=1)) for side in (y, -y)
    ]
    return min(options, key=lambda option: (facing_down(0.0).inv() * option).magnitude())
