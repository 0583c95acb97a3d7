"""Stages of ManiSkill's tasks, so that a failed episode says how far it came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

REACHED = 0.03
"""Distance of the point between the fingers from an object, meters."""

LIFTED = 0.01
"""Rise of an object above its height at the start, meters."""

ALIGNED = 0.01
"""Deviation from the line of insertion, meters: that of ManiSkill's rewards."""

Check = Callable[[Any], bool]
"""Whether an environment of ManiSkill, without wrappers, is in a stage now."""


class Stages:
    """Records which stages of its task an episode has reached.

    They are ``reached``, ``grasped``, ``lifted`` and, where something is stacked or inserted,
    ``aligned``. A stage counts from the first control step in it to the end of the episode.

    Args:
        task: ManiSkill's name of the task. Tasks that move no known object have no stages.
        env: Its environment, without wrappers.
    """

    def __init__(self, task: str, env: Any) -> None:
        self.env = env
        self.name = OBJECTS.get(task)
        self._aligned = ALIGNMENTS.get(task)
        self._height = 0.0
        self._flags: dict[str, bool] = {}

    def reset(self) -> None:
        """Start with the current state of the scene."""
        self._flags = {}
        if self.name is not None:
            self._height = self._object_position()[2]

    def update(self) -> dict[str, bool]:
        """Check the current state of the scene, and return the stages reached so far."""
        if self.name is None:
            return {}
        hand, position = self.env.agent.tcp.pose.p[0], self._object_position()
        grasped = bool(self.env.agent.is_grasping(getattr(self.env, self.name)).item())
        now = {
            "reached": grasped or float((hand - position).norm()) < REACHED,
            "grasped": grasped,
            "lifted": float(position[2] - self._height) > LIFTED,
        }
        if self._aligned is not None:
            now["aligned"] = grasped and self._aligned(self.env)
        self._flags = {name: self._flags.get(name, False) or now[name] for name in now}
        return dict(self._flags)

    def _object_position(self) -> Any:
        """``(3,)``, meters."""
        return getattr(self.env, str(self.name)).pose.p[0].clone()


def _over_the_other_cube(env: Any) -> bool:
    """Whether cube A is above cube B, within half an edge."""
    offset = (env.cubeA.pose.p - env.cubeB.pose.p)[0]
    edge = 2 * float(env.cube_half_size[0])
    return float(offset[:2].norm()) < edge / 2 and float(offset[2]) > 0.75 * edge


def _in_line_with_the_hole(env: Any) -> bool:
    """Whether the peg's head and middle are on the axis of the hole."""
    goal = env.goal_pose.inv()
    ends = [(goal * pose).p[0, 1:] for pose in (env.peg_head_pose, env.peg.pose)]
    return all(float(end.norm()) < ALIGNED for end in ends)


def _in_line_with_the_receptacle(env: Any) -> bool:
    """Whether the charger is on the axis of the receptacle, and turned as for success."""
    angle = float(env.evaluate()["obj_to_goal_angle"][0])
    deviation = (env.goal_pose.inv() * env.charger.pose).p[0, 1:]
    return float(deviation.norm()) < ALIGNED and angle < 0.2


OBJECTS = {
    "PickCube-v1": "cube",
    "StackCube-v1": "cubeA",
    "PegInsertionSide-v1": "peg",
    "PlugCharger-v1": "charger",
    "PlaceSphere-v1": "obj",
    "LiftPegUpright-v1": "peg",
}
"""Task to the attribute with the object that is grasped."""

ALIGNMENTS: dict[str, Check] = {
    "StackCube-v1": _over_the_other_cube,
    "PegInsertionSide-v1": _in_line_with_the_hole,
    "PlugCharger-v1": _in_line_with_the_receptacle,
}
"""Task to its last stage before success."""
