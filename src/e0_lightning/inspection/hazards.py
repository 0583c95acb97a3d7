"""Properties of demonstrations that would hurt training, one line each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from e0_lightning.inspection.demo_set import DemoSet
from e0_lightning.inspection.discontinuities import find_gaps, find_jumps, find_turns
from e0_lightning.inspection.motion import STILL, estimate_lag, find_no_ops, is_binary
from e0_lightning.inspection.statistics import BINS, HARDLY_MOVES, Dimension, measure

MAX_BEYOND = 0.5
"""Distance of clipped values from the range that is not clipped, relative to it, without harm."""

MAX_NO_OPS = 0.1
"""Share of steps without motion without harm."""

MAX_LAG_SECONDS, MAX_LAG_STEPS = 0.2, 5
"""Lag of the state without harm; in steps where the rate is not known."""

SHIPPED_BINS = 256
"""Bins of the shipped experiments."""

MAX_NAMED = 6
"""Dimensions or demonstrations that a line names."""


def find_hazards(demo_set: DemoSet) -> list[str]:
    """Lines that each name a hazard, what it means and what to do; none where there is none."""
    if not demo_set.demos:
        return []
    actions = measure(demo_set.actions, demo_set.action_names)
    states = measure(demo_set.states, demo_set.state_names)
    return [
        *_clipping(actions),
        *_coarse_bins(demo_set, actions),
        *_constant(actions, states),
        *(line for check in CHECKS for line in check(demo_set)),
    ]


def _clipping(actions: list[Dimension]) -> Iterator[str]:
    far = [each for each in actions if each.beyond > MAX_BEYOND]
    if far:
        worst = max(far, key=lambda each: each.beyond)
        yield (
            f"clipping: values of {_names([each.name for each in far])} lie outside of the 1-99 % "
            f"quantiles, {worst.clipped:.1%} of {worst.name} and by up to {worst.beyond:.1f} times "
            "the range inside. They are clipped: a policy cannot repeat these motions. If they are "
            "no outliers, widen the quantiles (normalizer: low: 0.001, high: 0.999)."
        )


def _coarse_bins(demo_set: DemoSet, actions: list[Dimension]) -> Iterator[str]:
    """Where quantization errs by more than half of the usual motion of a step."""
    changes = np.concatenate([np.abs(np.diff(demo.actions, axis=0)) for demo in demo_set.demos])
    coarse = []
    for dim, each in enumerate(actions):
        moved = changes[:, dim][changes[:, dim] > STILL * (each.max - each.min)]
        if len(moved) and not is_binary(demo_set.actions[:, dim]):
            motion, error = float(moved.mean()), each.errors[BINS.index(SHIPPED_BINS)]
            if error > motion / 2:
                coarse.append((error / motion, each.name, error, motion))
    if coarse:
        _, name, error, motion = max(coarse)
        yield (
            f"bins: {SHIPPED_BINS} bins err by more than half of the mean change of a step in "
            f"{_names([name for _, name, _, _ in coarse])} ({name}: by {error:.2g}, the change is "
            f"{motion:.2g}). Motions come out as jerks: use 2048 bins (process: num_bins), or "
            "relative actions."
        )


def _constant(actions: list[Dimension], states: list[Dimension]) -> Iterator[str]:
    still = [e.name for e in [*actions, *states] if e.max - e.min <= HARDLY_MOVES]
    if still:
        yield (
            f"constant: no motion in {_names(still)}. Such actions come out as their constant, and "
            "such state says nothing: check the recorder, or leave the state part out."
        )


def _no_ops(demo_set: DemoSet) -> Iterator[str]:
    found, by_changes = find_no_ops(demo_set)
    share = float(np.concatenate(found).mean())
    if share > MAX_NO_OPS:
        leading = np.mean([len(still) if still.all() else int(still.argmin()) for still in found])
        kind = "actions are zero" if by_changes else "targets do not change"
        yield (
            f"no-ops: at {share:.0%} of the steps {kind}, {leading:.1f} at the start of a "
            "demonstration on average. A policy learns to stand still: cut them out, also by a "
            "flag of the steps to keep (key map: file: keep)."
        )


def _lag(demo_set: DemoSet) -> Iterator[str]:
    lag = estimate_lag(demo_set)
    if lag is None:
        return
    if lag.steps < 0:
        yield (
            f"lag: the state moves {-lag.steps} steps before the action that should move it. "
            "Observations are late, or the actions are measured states: pair each observation with "
            f"a later action (key map: file: lag: {-lag.steps})."
        )
    longest = MAX_LAG_SECONDS * demo_set.rate if demo_set.rate else MAX_LAG_STEPS
    if lag.steps > longest:
        yield (
            f"lag: the state moves {lag.duration} after its action. Chunks must be longer than "
            "that, and a policy that is run at once after each observation acts on old motion: "
            "execute several actions of a chunk (n_action_steps)."
        )


def _discontinuities(demo_set: DemoSet) -> Iterator[str]:
    if jumps := _names([str(jump) for jump in find_jumps(demo_set)]):
        yield (
            f"jumps: the state jumps in {jumps}. Frames were lost or recordings joined: cut the "
            "demonstrations there, or leave them out."
        )
    if gaps := _names([str(gap) for gap in find_gaps(demo_set)]):
        yield (
            f"time: steps are missing or out of order in {gaps}. Chunks assume equal intervals: "
            "cut the demonstrations there, or resample them."
        )
    if turns := find_turns(demo_set):
        yield (
            f"angles: {_names(turns)} wraps around or changes sign, so that equal poses have "
            "different numbers. As actions, list them in relative.rotations or relative.angles; as "
            "state, prefer joints or another representation."
        )


def _duplicates(demo_set: DemoSet) -> Iterator[str]:
    by_hash: dict[bytes, list[str]] = defaultdict(list)
    for demo in demo_set.demos:
        digest = hashlib.sha256(np.ascontiguousarray(demo.actions).tobytes()).digest()
        by_hash[digest].append(demo.label)
    copies = [labels for labels in by_hash.values() if len(labels) > 1]
    if copies:
        pairs = [" = ".join(labels[:3]) for labels in copies]
        count = sum(len(labels) - 1 for labels in copies)
        yield (
            f"duplicates: {count} demonstrations have the actions of another one: {_names(pairs)}. "
            "They weigh double, and validation is on demonstrations that are trained on: leave the "
            "copies out."
        )


CHECKS: tuple[Callable[[DemoSet], Iterator[str]], ...] = (
    _no_ops,
    _lag,
    _discontinuities,
    _duplicates,
)
"""Checks of whole demonstrations."""


def _names(names: list[str]) -> str:
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + f" and {rest} more" * (rest > 0)
