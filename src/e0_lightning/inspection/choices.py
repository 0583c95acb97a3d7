"""Settings of a training that follow from demonstrations: views, state, horizon."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from e0_lightning.inspection.demo_set import DemoSet
from e0_lightning.inspection.motion import position_dims
from e0_lightning.inspection.statistics import HARDLY_MOVES

MAX_EDGE, MIN_EDGE, CELL = 128, 64, 16
"""Longest edge of the images, shortest longest edge that the vision encoder scales up to, and what
the edges are multiples of: the pixels of a cell of its feature map."""

MAX_HORIZON, DEFAULT_HORIZON = 50, 16
"""Longest horizon, and that for an unknown rate, steps."""


class ViewChoice(NamedTuple):
    """Views and the size of their images."""

    views: dict[str, Any] | list[str]
    """The option ``data.views``."""
    size: list[int] | None
    """Size at the input of the vision encoder, pixels; None without views."""
    comment: str
    """Sizes of the recorded frames where they are changed."""


def choose_views(demo_set: DemoSet) -> ViewChoice:
    """All views; images are made small and equal where frames are large or differ."""
    recorded = {view: size.camera_size for view, size in demo_set.spec.views.items()}
    if not recorded:
        return ViewChoice([], None, "no frames were recorded: a policy of the state alone")
    height, width = max(recorded.values(), key=max)
    longest = max(height, width)
    scale = min(1, MAX_EDGE / longest)
    rows, columns = (-(-round(edge * scale) // CELL) * CELL for edge in (height, width))
    grown = max(1, MIN_EDGE // max(rows, columns))
    if len(set(recorded.values())) == 1 and longest <= MAX_EDGE:
        return ViewChoice(list(recorded), [rows * grown, columns * grown], "")
    views = {view: {"height": rows, "width": columns} for view in recorded}
    sizes = ", ".join(f"{view} {h} x {w}" for view, (h, w) in recorded.items())
    return ViewChoice(views, [rows * grown, columns * grown], f"recorded: {sizes} pixels")


def choose_state(demo_set: DemoSet) -> tuple[list[str], list[str]]:
    """State parts, without velocities, forces, constants and copies of other parts.

    Returns:
        The chosen parts, and those left out.
    """
    positions = set(position_dims(demo_set))
    chosen = []
    for part in demo_set.spec.state:
        columns = demo_set.columns(part)
        moves = np.ptp(demo_set.states[:, columns], axis=0) > HARDLY_MOVES
        if columns.start in positions and moves.any():
            chosen.append(part)
    for part in sorted(chosen, key=lambda name: -demo_set.spec.state[name]):
        others = [each for each in chosen if each != part]
        if others and _is_copy(demo_set, part, others):
            chosen.remove(part)
    chosen = chosen or list(demo_set.spec.state)
    return chosen, [part for part in demo_set.spec.state if part not in chosen]


def choose_horizon(demo_set: DemoSet) -> tuple[int, str]:
    """About a second of steps, no more than a usual demonstration has; and why."""
    rate = demo_set.rate
    steps = round(rate) if rate else DEFAULT_HORIZON
    longest = int(np.median([demo.info.steps for demo in demo_set.demos]))
    horizon = max(1, min(steps, MAX_HORIZON, longest))
    if not rate:
        return horizon, "the rate is not known: set the steps of about one second"
    return horizon, f"{horizon / rate:.2g} s at {rate:g} Hz"


def _is_copy(demo_set: DemoSet, part: str, others: list[str]) -> bool:
    """Whether every dimension of a part is also one of the other parts."""
    known = np.concatenate(
        [demo_set.states[:, demo_set.columns(other)] for other in others], axis=1
    )
    own = demo_set.states[:, demo_set.columns(part)]
    return all((known == column[:, None]).all(axis=0).any() for column in own.T)
