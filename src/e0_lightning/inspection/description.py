"""What files of one kind hold, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from e0_lightning.data.split import read_split
from e0_lightning.inspection.demo_set import DemoSet
from e0_lightning.inspection.motion import estimate_lag

MAX_LISTED = 10
"""Names or sentences that are listed."""


class Fact(NamedTuple):
    """One line of a description."""

    name: str
    text: str


def describe(demo_set: DemoSet) -> Iterator[Fact]:
    """Facts about the demonstrations of a set: task, sentences, sizes, views, state and lag."""
    yield Fact("format", demo_set.first.format)
    yield Fact("task", demo_set.first.task)
    yield from (Fact("instruction", text) for text in _instructions(demo_set))
    yield Fact("control mode", demo_set.spec.control_mode or "unknown")
    yield Fact("rate", f"{demo_set.rate:g} Hz" if demo_set.rate else "unknown")
    yield from _counts(demo_set)
    yield from _views(demo_set)
    for part, dims in demo_set.spec.state.items():
        yield Fact("state", f"{part}: {dims}")
    lag = estimate_lag(demo_set)
    if lag is not None:
        yield Fact("lag", str(lag))


def sentences(demo_set: DemoSet) -> Counter[str]:
    """Instructions with the numbers of their demonstrations; empty where one has none."""
    try:
        return Counter(demo.reader.instruction(demo.info.name) for demo in demo_set.demos)
    except ValueError:
        return Counter()


def _instructions(demo_set: DemoSet) -> Iterator[str]:
    found = sentences(demo_set)
    if not found:
        yield "none: give one with the demonstrations"
    for sentence, count in found.most_common(MAX_LISTED):
        yield f"{sentence!r}" + f" ({count} demonstrations)" * (len(found) > 1)
    if len(found) > MAX_LISTED:
        yield f"… and {len(found) - MAX_LISTED} more"


def _counts(demo_set: DemoSet) -> Iterator[Fact]:
    failed = demo_set.failed
    names = f": {', '.join(failed[:MAX_LISTED])}" if failed else ""
    names += ", …" * (len(failed) > MAX_LISTED)
    steps = np.array([demo.info.steps for demo in demo_set.demos])
    yield Fact("demos", f"{len(steps)}, without {len(failed)} failed ones{names}")
    if not len(steps):
        return
    duration = f"; {steps.sum() / demo_set.rate:.0f} s" if demo_set.rate else ""
    yield Fact(
        "steps",
        f"{steps.sum()} in all; {steps.min()} / {steps.mean():.1f} / {steps.max()} per "
        f"demonstration (min / mean / max){duration}",
    )
    parts: Counter[str | None] = Counter()
    for reader in demo_set.readers:
        infos = [demo.info for demo in demo_set.demos if demo.reader is reader]
        parts.update(read_split(reader, infos).values())
    if parts["valid"]:
        yield Fact("split", f"{parts['train']} to train on, {parts['valid']} held out (mask/valid)")


def _views(demo_set: DemoSet) -> Iterator[Fact]:
    known = demo_set.first.intrinsics(demo_set.demos[0].info.name) if demo_set.demos else {}
    datasets = [demo.reader.image_dataset(demo.info.name) for demo in demo_set.demos]
    for view, size in demo_set.spec.views.items():
        stored = [each[view] for each in datasets if view in each]
        common = Counter(dataset.chunks for dataset in stored).most_common(3)
        chunks = ", ".join(
            ("contiguous" if chunk is None else " × ".join(map(str, chunk)))
            + f" ({count} demonstrations)"
            for chunk, count in common
        )
        calibrated = "known" if view in known else "unknown"
        text = f"{view}: {size}, intrinsics {calibrated}, chunks {chunks or 'unknown'}"
        yield Fact("view", text)
    if not demo_set.spec.views:
        yield Fact("view", "none: a policy of the state alone, views: []")
