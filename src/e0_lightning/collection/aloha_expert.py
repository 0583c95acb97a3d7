"""Scripted expert for gym-aloha: waypoints of both hands, turned into joint targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from e0_lightning.envs.aloha_simulation import SUBSTEPS, TASKS, object_poses

NUM_STEPS = 300
"""Length of a demonstration, 6 s: gym-aloha's registered episode length."""

FINGERTIP = 0.134706
"""Distance in m of the controlled point between the fingertips from the gripper link."""

WELD_IMPEDANCE = 0.98
"""Impedance of the constraint that ties a hand to its target. gym-aloha's 0.25 is too weak against
the friction of the joints: the hands lag by centimetres and the cube is missed."""

CUBE_HEIGHT, PEG_HEIGHT, SOCKET_HEIGHT = 0.02, 0.01, 0.022
"""Heights of the objects' centres on the table, in m."""

GRASP_HEIGHT = 0.01
"""Height of the hands above the centres of peg and socket, the same for both, so that they meet."""


class Waypoint(NamedTuple):
    """Target of a hand at one step; targets in between are interpolated."""

    step: int
    position: NDArray[np.float64]
    """Point between the fingertips, in m."""
    rotation: Rotation
    """Relative to the hand that points horizontally at the other arm."""
    gripper: float
    """0 closed, 1 open."""


class Hand(NamedTuple):
    """Pose of a hand."""

    position: NDArray[np.float64]
    rotation: Rotation


Plan = Callable[[Hand, Hand, NDArray[np.float64]], tuple[list[Waypoint], list[Waypoint]]]
"""Waypoints of the left and the right hand for their start and the poses of the objects."""

DOWN = Rotation.from_euler("y", -60, degrees=True)
"""The right hand tilted towards the table; the left hand tilts the other way."""
UPRIGHT = Rotation.from_euler("x", 90, degrees=True)
"""The left hand rolled, so that its fingers close across those of the right hand."""


def transfer_cube(
    left: Hand, right: Hand, objects: NDArray[np.float64]
) -> tuple[list[Waypoint], list[Waypoint]]:
    """The right hand lifts the cube and holds it where the left hand takes it over."""
    cube = np.array([*objects[:2], CUBE_HEIGHT])
    meet = np.array([0.0, 0.5, 0.25])
    # The left hand takes the cube's lower half, below the fingers of the right hand.
    take, away = _beside(meet, x=0.02, z=-0.02), _beside(meet, x=-0.1, z=-0.02)
    above, grasp = _beside(cube, z=0.11), _beside(cube, z=0.015)
    return [
        Waypoint(0, left.position, left.rotation, 0),
        Waypoint(80, away, UPRIGHT, 1),
        Waypoint(190, take, UPRIGHT, 1),
        Waypoint(220, take, UPRIGHT, 0),
        Waypoint(240, take, UPRIGHT, 0),
        Waypoint(275, away, UPRIGHT, 0),
    ], [
        Waypoint(0, right.position, right.rotation, 0),
        Waypoint(65, above, DOWN, 1),
        Waypoint(95, grasp, DOWN, 1),
        Waypoint(120, grasp, DOWN, 0),
        Waypoint(150, _beside(meet, x=0.05), DOWN, 0),
        Waypoint(165, meet, DOWN, 0),
        Waypoint(220, meet, DOWN, 0),
        Waypoint(240, meet, DOWN, 1),
        Waypoint(275, _beside(meet, x=0.1), DOWN, 1),
    ]


def insertion(
    left: Hand, right: Hand, objects: NDArray[np.float64]
) -> tuple[list[Waypoint], list[Waypoint]]:
    """The right hand lifts the peg, the left hand the socket, and both bring them together."""
    peg, socket = np.array([*objects[:2], PEG_HEIGHT]), np.array([*objects[7:9], SOCKET_HEIGHT])
    meet = np.array([0.0, 0.5, 0.15])
    return [
        Waypoint(0, left.position, left.rotation, 0),
        *_grasp(socket, DOWN.inv()),
        Waypoint(215, _beside(meet, x=-0.1), DOWN.inv(), 0),
        Waypoint(255, _beside(meet, x=-0.05), DOWN.inv(), 0),
    ], [
        Waypoint(0, right.position, right.rotation, 0),
        *_grasp(peg, DOWN),
        Waypoint(215, _beside(meet, x=0.1), DOWN, 0),
        Waypoint(255, _beside(meet, x=0.05), DOWN, 0),
    ]


def _grasp(point: NDArray[np.float64], rotation: Rotation) -> list[Waypoint]:
    """Waypoints from above an object to its grasp."""
    return [
        Waypoint(90, _beside(point, z=0.09), rotation, 1),
        Waypoint(125, _beside(point, z=GRASP_HEIGHT), rotation, 1),
        Waypoint(160, _beside(point, z=GRASP_HEIGHT), rotation, 0),
    ]


PLANS: dict[str, Plan] = {"AlohaTransferCube-v0": transfer_cube, "AlohaInsertion-v0": insertion}
"""Task name to the expert's waypoints."""


class AlohaExpert:
    """Moves the hands of gym-aloha's end-effector task along waypoints; no rendering.

    As in ACT, the joint positions that result are the joint targets of a demonstration, with the
    gripper's command in the place of its measured position.

    Args:
        task: Name of the task.
    """

    def __init__(self, task: str) -> None:
        from dm_control import mujoco
        from gym_aloha.constants import ASSETS_DIR
        from gym_aloha.tasks.sim_end_effector import BimanualViperXEndEffectorTask

        self.task = task
        name = f"bimanual_viperx_end_effector_{TASKS[task][0]}.xml"
        self._physics = mujoco.Physics.from_xml_path(str(ASSETS_DIR / name))
        self._physics.model.eq_solimp[:, :2] = WELD_IMPEDANCE
        self._rules = BimanualViperXEndEffectorTask()

    def joint_targets(self, seed: int) -> NDArray[np.float64]:
        """Act on the objects of a seed; returns joint targets, ``(NUM_STEPS, 14)``."""
        physics, objects = self._physics, object_poses(self.task, seed)
        with physics.reset_context():
            self._rules.initialize_robots(physics)
            physics.data.qpos[-objects.size :] = objects
        plan = PLANS[self.task](self._hand("left"), self._hand("right"), objects)
        commands = np.concatenate([_interpolate(waypoints) for waypoints in plan], 1)
        targets = []
        for command in commands:
            targets.append(self._joint_target())
            self._rules.before_step(command, physics)
            physics.step(SUBSTEPS)
        return np.stack(targets)

    def _hand(self, side: str) -> Hand:
        link = f"vx300s_{side}/gripper_link"
        rotation = Rotation.from_quat(np.roll(self._physics.named.data.xquat[link], -1))
        tip = self._physics.named.data.xpos[link] + rotation.apply([FINGERTIP, 0, 0])
        # The right arm faces the left one: its hand is turned by half a turn about the vertical.
        level = Rotation.from_euler("z", 180 if side == "right" else 0, degrees=True)
        return Hand(tip, rotation * level.inv())

    def _joint_target(self) -> NDArray[np.float64]:
        from gym_aloha.constants import normalize_puppet_gripper_position

        target: NDArray[np.float64] = self._rules.get_qpos(self._physics)
        target[[6, 13]] = normalize_puppet_gripper_position(self._physics.data.ctrl[[0, 2]])
        return target

    def close(self) -> None:
        """Free the scene."""
        self._physics.free()


def _beside(point: NDArray[np.float64], x: float = 0.0, z: float = 0.0) -> NDArray[np.float64]:
    """A point displaced by metres."""
    return np.asarray(point + np.array([x, 0.0, z]))


def _interpolate(waypoints: Sequence[Waypoint]) -> NDArray[np.float64]:
    """Targets of a hand at every step: position, quaternion (wxyz), gripper; ``(NUM_STEPS, 8)``."""
    knots: Any = [waypoint.step for waypoint in waypoints]
    steps = np.minimum(np.arange(NUM_STEPS), knots[-1])
    rotations = Slerp(knots, Rotation.concatenate([waypoint.rotation for waypoint in waypoints]))
    vectors = np.array([[*waypoint.position, waypoint.gripper] for waypoint in waypoints])
    columns = [np.interp(steps, knots, values) for values in vectors.T]
    quaternions = np.roll(rotations(steps).as_quat(), 1, axis=1)  # SciPy: xyzw
    return np.column_stack([*columns[:3], quaternions, columns[3]])
