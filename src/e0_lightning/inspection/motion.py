"""How the state follows the actions: lag, steps without motion, grippers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.base import Floats
from e0_lightning.inspection.demo_set import DemoNumbers, DemoSet

MAX_LAG = 10
"""Longest lag that is tried, steps, in either direction."""

MIN_CORRELATION = 0.6
"""Least correlation of a change of the state with an action that it follows."""

NO_POSITION = ("vel", "acc", "effort", "torque", "force", "current", "time", "stamp")
"""Parts of the names of state parts that are no positions."""

STILL = 1e-3
"""Change of an action, relative to its range, up to which it is none."""


@dataclass(frozen=True)
class Lag:
    """How much later than the actions the state moves.

    Args:
        steps: Steps from an action to the change of the state that it causes; 0 for the change
            between its observation and the next.
        correlation: Of actions and changes of the state at that lag, mean over ``dims``.
        dims: Action dimensions that the state follows.
        is_delta: Whether the actions are changes of the state rather than targets.
        rate: Steps per second, Hz; 0 if it is not known.
    """

    steps: int
    correlation: float
    dims: int
    is_delta: bool
    rate: float

    @property
    def duration(self) -> str:
        """The lag in steps and, where the rate is known, milliseconds."""
        time = f" ({1000 * self.steps / self.rate:.0f} ms)" if self.rate else ""
        return f"{self.steps} steps{time}"

    def __str__(self) -> str:
        kind = "displacements" if self.is_delta else "targets"
        return (
            f"{self.duration} from action to motion; {self.dims} dimensions correlate with the "
            f"state by {self.correlation:.2f}, as {kind}"
        )


class _Peaks(NamedTuple):
    """For each action dimension, the lag and correlation with the state that it fits best."""

    lags: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def strength(self) -> float:
        return float(self.values[self.values >= MIN_CORRELATION].sum())


def estimate_lag(demo_set: DemoSet) -> Lag | None:
    """Cross-correlate actions with changes of the state.

    Actions are tried as targets, whose changes the changes of the state follow, and as changes of
    the state themselves.

    Returns:
        The lag; None if demonstrations are short, or the state follows no action.
    """
    demos = [demo for demo in demo_set.demos if demo.info.steps >= 4 * MAX_LAG]
    dims = position_dims(demo_set)
    if not demos or not dims:
        return None
    by_kind = {is_delta: _find_peaks(demos, dims, is_delta) for is_delta in (False, True)}
    is_delta = by_kind[True].strength > by_kind[False].strength
    lags, values = by_kind[is_delta]
    strong = values >= MIN_CORRELATION
    if not strong.any():
        return None
    steps, correlation = int(np.median(lags[strong])), float(values[strong].mean())
    return Lag(steps, correlation, int(strong.sum()), is_delta, demo_set.rate)


def position_dims(demo_set: DemoSet) -> list[int]:
    """State dimensions that are no velocities, forces or times, by the names of their parts."""
    names = [part for part, size in demo_set.spec.state.items() for _ in range(size)]
    return [
        dim
        for dim, name in enumerate(names)
        if not any(word in name.lower() for word in NO_POSITION)
    ]


def acts_by_changes(demo_set: DemoSet) -> bool:
    """Whether actions are displacements or velocities: by the control mode, else the motion."""
    mode = demo_set.spec.control_mode.lower()
    if mode:
        return "delta" in mode or "vel" in mode
    lag = estimate_lag(demo_set)
    return lag is not None and lag.is_delta


def is_binary(values: Floats) -> bool:
    """Whether values ``(N,)`` are nearly always at either end of their range, as a gripper's."""
    low, high = values.min(), values.max()
    margin = 0.05 * (high - low)
    near = (values <= low + margin) | (values >= high - margin)
    return bool(high > low and near.mean() >= 0.9)


def find_no_ops(demo_set: DemoSet) -> tuple[list[NDArray[np.bool_]], bool]:
    """Steps at which no action dimension changes the robot.

    A target repeats that of the step before, a displacement is zero, and a gripper does not change.

    Returns:
        For each demonstration ``(T,)``, and whether actions are displacements.
    """
    by_changes = acts_by_changes(demo_set)
    values = demo_set.actions
    extent = np.ptp(values, axis=0)
    size = np.quantile(np.abs(values), 0.99, axis=0) if len(values) else extent
    binary = np.array([is_binary(column) for column in values.T], dtype=bool)
    found: list[NDArray[np.bool_]] = []
    for demo in demo_set.demos:
        before = np.concatenate([demo.actions[:1], demo.actions[:-1]])
        unchanged = np.abs(demo.actions - before) <= STILL * extent
        if by_changes:
            zero = np.abs(demo.actions) <= STILL * size
            still = np.where(binary, unchanged, zero).all(axis=1)
        else:
            still = unchanged.all(axis=1)
            still[0] = len(still) > 1 and still[1]
        found.append(still)
    return found, by_changes


def _find_peaks(demos: list[DemoNumbers], dims: list[int], is_delta: bool) -> _Peaks:
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    num_actions, num_states = demos[0].actions.shape[1], len(dims)
    products = np.zeros((len(lags), num_actions, num_states))
    commands = np.zeros((len(lags), num_actions))
    motions = np.zeros((len(lags), num_states))
    for demo in demos:
        actions, states = demo.actions.astype(float), demo.states[:, dims].astype(float)
        command = actions[1:-1] if is_delta else actions[1:-1] - actions[:-2]
        motion = states[2:] - states[1:-1]
        command, motion = command - command.mean(axis=0), motion - motion.mean(axis=0)
        pairs = [_shifted(command, motion, int(lag)) for lag in lags]
        products += np.stack([u.T @ m for u, m in pairs])
        commands += np.stack([(u**2).sum(axis=0) for u, _ in pairs])
        motions += np.stack([(m**2).sum(axis=0) for _, m in pairs])
    scale = np.sqrt(commands[:, :, None] * motions[:, None])
    correlation = np.divide(products, scale, out=np.zeros_like(scale), where=scale > 1e-12)
    by_lag = correlation.max(axis=2)
    best = by_lag.argmax(axis=0)
    return _Peaks(lags[best], by_lag.max(axis=0))


def _shifted(
    command: NDArray[np.float64], motion: NDArray[np.float64], lag: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Commands, and the motion ``lag`` steps after each."""
    steps = len(command)
    if lag >= 0:
        return command[: steps - lag], motion[lag:]
    return command[-lag:], motion[: steps + lag]
