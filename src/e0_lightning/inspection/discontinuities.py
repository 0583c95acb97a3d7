"""Jumps of the state: lost frames, gaps in time, angles that wrap around."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.base import Floats
from e0_lightning.inspection.demo_set import DemoNumbers, DemoSet
from e0_lightning.inspection.motion import is_binary, position_dims

OUTLYING = 8
"""A jump exceeds the 99 % quantile of the changes of a step by this factor."""

LEAST_JUMP = 0.1
"""Smallest jump, relative to the range of the dimension."""

TIMES = ("time", "stamp")
"""Parts of the names of state parts that are times."""


class Jump(NamedTuple):
    """A discontinuity between two steps."""

    label: str
    """Demonstration."""
    step: int
    """The later of the two steps."""
    name: str
    """State dimension that jumps most."""
    size: float
    """By how much, robot units."""

    def __str__(self) -> str:
        return f"{self.label} step {self.step} ({self.name} by {self.size:.3g})"


def find_jumps(demo_set: DemoSet) -> list[Jump]:
    """Steps at which the state changes far more than it ever does, at most one a demonstration.

    Wrapping angles, grippers and velocities are left out.
    """
    turns, names = find_turns(demo_set), demo_set.state_names
    dims = [
        dim
        for dim in position_dims(demo_set)
        if names[dim] not in turns and not is_binary(demo_set.states[:, dim])
    ]
    if not dims:
        return []
    changes = [np.abs(np.diff(demo.states[:, dims], axis=0)) for demo in demo_set.demos]
    usual = np.quantile(np.concatenate(changes), 0.99, axis=0)
    least = np.maximum(OUTLYING * usual, LEAST_JUMP * np.ptp(demo_set.states[:, dims], axis=0))
    jumps = []
    for demo, change in zip(demo_set.demos, changes, strict=True):
        ratio = np.divide(change, least, out=np.zeros_like(change), where=least > 0)
        if ratio.size and ratio.max() > 1:
            step, column = np.unravel_index(int(ratio.argmax()), ratio.shape)
            name = names[dims[int(column)]]
            jumps.append(Jump(demo.label, int(step) + 1, name, float(change[step, column])))
    return jumps


def find_gaps(demo_set: DemoSet) -> list[Jump]:
    """Steps at which a time among the state is not one usual interval after the one before."""
    gaps = []
    for part, size in demo_set.spec.state.items():
        if size != 1 or not any(word in part.lower() for word in TIMES):
            continue
        intervals = [_intervals(demo, part) for demo in demo_set.demos]
        usual = float(np.median(np.concatenate(intervals)))
        for demo, between in zip(demo_set.demos, intervals, strict=True):
            bad = np.flatnonzero((between > 2.5 * usual) | (between <= 0))
            if len(bad):
                step = int(bad[0])
                gaps.append(Jump(demo.label, step + 1, part, float(between[step])))
    return gaps


def _intervals(demo: DemoNumbers, part: str) -> NDArray[np.float64]:
    """Differences of times, of which float32 would leave minutes."""
    read = demo.reader.read_states(demo.info.name, 0, demo.info.steps)[part]
    demo.reader.close()
    return np.diff(np.asarray(read, dtype=np.float64).reshape(-1))


def find_turns(demo_set: DemoSet) -> list[str]:
    """Names of state and action dimensions that jump by a turn, and of parts that change sign."""
    kinds = {
        "actions": ([demo.actions for demo in demo_set.demos], demo_set.action_names),
        "state": ([demo.states for demo in demo_set.demos], demo_set.state_names),
    }
    turns = [name for values, names in kinds.values() for name in _wrapping(values, names)]
    for part, size in demo_set.spec.state.items():
        if size == 4:
            columns = demo_set.columns(part)
            if _changes_sign([demo.states[:, columns] for demo in demo_set.demos]):
                turns += [f"{part}[{dim}]" for dim in range(size)]
    return turns


def _wrapping(demos: list[Floats], names: list[str]) -> Iterator[str]:
    """Dimensions within a range of 2π that jump by a turn; 2π/√3 for a rotation vector's."""
    extent = np.ptp(np.concatenate(demos), axis=0)
    steps = [np.abs(np.diff(values, axis=0)) for values in demos if len(values) > 1]
    jump = np.max([step.max(axis=0) for step in steps], axis=0) if steps else extent * 0
    wraps = (extent < 2 * math.pi + 0.01) & (jump > 1.1 * math.pi)
    yield from (name for name, found in zip(names, wraps, strict=True) if found)


def _changes_sign(demos: list[Floats]) -> bool:
    """Whether rows ``(T, 4)`` are unit quaternions that change to their negative somewhere."""
    values = np.concatenate(demos)
    if np.abs(np.linalg.norm(values, axis=1) - 1).max() > 1e-2:
        return False
    return any(((q[1:] * q[:-1]).sum(axis=1) < 0).any() for q in demos)
