"""Stages of ManiSkill's tasks, so that a failed episode says how far it came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

REACHED = 0.03
"""Distance of the point between the fingers from an object, meters."""

LIFTED = 0.01
"""Rise of an object above its height at the start, meters."""

ALIGNED = 0.01
"""Deviation from the line of insertion, meters: that of ManiSkill's rewards."""

Check = Callable[[Any], Tensor]
"""Whether the n scenes of a ManiSkill environment, without wrappers, are in a stage: (n,) bool."""


class Stages:
    """Records which stages of its task an episode has reached, in each of n scenes.

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
        self._height = torch.zeros(1)
        self._flags: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Start with the current state of the scenes."""
        self._flags = {}
        if self.name is not None:
            self._height = self._object_position()[:, 2]

    def update(self) -> dict[str, Tensor]:
        """Check the current state of the scenes; the stages reached so far, each ``(n,)`` bool."""
        if self.name is None:
            return {}
        hand, position = self.env.agent.tcp.pose.p, self._object_position()
        grasped = self.env.agent.is_grasping(getattr(self.env, self.name))
        now = {
            "reached": grasped | ((hand - position).norm(dim=-1) < REACHED),
            "grasped": grasped,
            "lifted": position[:, 2] - self._height > LIFTED,
        }
        if self._aligned is not None:
            now["aligned"] = grasped & self._aligned(self.env)
        self._flags = {name: flag | self._flags.get(name, flag) for name, flag in now.items()}
        return self._flags

    def _object_position(self) -> Tensor:
        """``(n, 3)``, meters."""
        position: Tensor = getattr(self.env, str(self.name)).pose.p.clone()
        return position


def _over_the_other_cube(env: Any) -> Tensor:
    """Whether cube A is above cube B, within half an edge."""
    offset = env.cubeA.pose.p - env.cubeB.pose.p
    edge = 2 * float(env.cube_half_size[0])
    above: Tensor = (offset[:, :2].norm(dim=-1) < edge / 2) & (offset[:, 2] > 0.75 * edge)
    return above


def _in_line_with_the_hole(env: Any) -> Tensor:
    """Whether the peg's head and middle are on the axis of the hole."""
    goal = env.goal_pose.inv()
    head, middle = ((goal * pose).p[:, 1:] for pose in (env.peg_head_pose, env.peg.pose))
    aligned: Tensor = (head.norm(dim=-1) < ALIGNED) & (middle.norm(dim=-1) < ALIGNED)
    return aligned


def _in_line_with_the_receptacle(env: Any) -> Tensor:
    """Whether the charger is on the axis of the receptacle, and turned as for success."""
    deviation = (env.goal_pose.inv() * env.charger.pose).p[:, 1:]
    angle = env.evaluate()["obj_to_goal_angle"]
    aligned: Tensor = (deviation.norm(dim=-1) < ALIGNED) & (angle < 0.2)
    return aligned


OBJECTS = {
    "PickCube-v1": "cube",
    "PrecisePick-v1": "cube",
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
