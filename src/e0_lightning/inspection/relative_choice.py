"""Which actions are targets of what the state measures, so that they can be relative to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e0_lightning.actions.relative import RelativeRotation
from e0_lightning.actions.rotations import REPRESENTATIONS
from e0_lightning.inspection.demo_set import DemoSet
from e0_lightning.inspection.discontinuities import find_turns
from e0_lightning.inspection.motion import acts_by_changes, is_binary, position_dims

MAX_SPREAD = 0.5
"""Spread of a target around the state, relative to that of the target itself."""

MAX_ANGLE = 0.3
"""Median angle between a rotation and that of the state that it is a target of, radians."""

ROTATIONS = {"ee_euler": "euler_xyz", "ee_ori": "axis_angle"}
"""State parts that are rotations, and their representations."""


def choose_relative(demo_set: DemoSet, parts: list[str]) -> dict[str, Any] | None:
    """Options of relative actions; None if no action is a target of what the state measures.

    An action dimension is relative to the state dimension that it stays nearest to, if it spreads
    less around it than by itself. Grippers, which are open or closed, and angles that wrap stay
    absolute; rotations of a known representation are relative by composition.

    Args:
        demo_set: Demonstrations.
        parts: State parts of the policy.
    """
    if acts_by_changes(demo_set):
        return None
    rotations = [found for part in parts if (found := _find_rotation(demo_set, part))]
    taken = {dim for each in rotations for dim in each["actions"]}
    pairs = _pair(demo_set, parts, taken)
    actions, state = [], {}
    for part in parts:
        columns = demo_set.columns(part)
        own = [(a, s) for a, s in pairs.items() if columns.start <= s < columns.stop]
        if own:
            actions += [a for a, _ in own]
            state[part] = [s - columns.start for _, s in own]
    if not actions and not rotations:
        return None
    chosen: dict[str, Any] = {"actions": actions, "state": state}
    return {**chosen, "rotations": rotations} if rotations else chosen


def _pair(demo_set: DemoSet, parts: list[str], taken: set[int]) -> dict[int, int]:
    """Action dimension to the state dimension that it is a target of, one to one."""
    actions, states = demo_set.actions.astype(float), demo_set.states.astype(float)
    turns = set(find_turns(demo_set))
    used = [column for part in parts for column in range(states.shape[1])[demo_set.columns(part)]]
    dims = [
        dim
        for dim in position_dims(demo_set)
        if dim in used and demo_set.state_names[dim] not in turns
    ]
    spreads = []
    for a, name in enumerate(demo_set.action_names):
        column = actions[:, a]
        if a in taken or name in turns or not np.ptp(column) or is_binary(demo_set.actions[:, a]):
            continue
        for s in dims:
            difference = column - states[:, s]
            spread = float(difference.std() / column.std())
            if spread < MAX_SPREAD and abs(difference.mean()) < np.ptp(column):
                spreads.append((spread, a, s))
    pairs: dict[int, int] = {}
    for _, a, s in sorted(spreads):
        if a not in pairs and s not in pairs.values():
            pairs[a] = s
    return dict(sorted(pairs.items()))


def _find_rotation(demo_set: DemoSet, part: str) -> dict[str, Any] | None:
    """The action dimensions that are targets of a rotation in the state."""
    representation = ROTATIONS.get(part)
    if representation is None:
        return None
    size = REPRESENTATIONS[representation].size
    best: tuple[float, list[int]] = (MAX_ANGLE, [])
    for first in range(demo_set.spec.action_dim - size + 1):
        dims = list(range(first, first + size))
        angle = float(np.median(_angles(demo_set, part, dims, representation)))
        best = min(best, (angle, dims))
    if not best[1]:
        return None
    return {
        "actions": best[1],
        "state": {part: list(range(size))},
        "representation": representation,
    }


def _angles(
    demo_set: DemoSet, part: str, dims: list[int], representation: str
) -> NDArray[np.float32]:
    """Angle between the rotation in the actions and that in the state, ``(N,)``, radians."""
    rotation = RelativeRotation(dims, {part: list(range(len(dims)))}, representation)
    actions = torch.from_numpy(demo_set.actions[:, None, dims])
    states = torch.from_numpy(demo_set.states[:, demo_set.columns(part)])
    angles: NDArray[np.float32] = rotation.relative(actions, states)[:, 0].norm(dim=-1).numpy()
    return angles
