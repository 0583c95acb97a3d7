"""Success rates and their differences over several trainings on the same episodes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from e0_lightning.metrics import (
    Difference,
    Proportion,
    crossed_mean,
    paired_difference,
    wilson,
)

Successes = Sequence[Sequence[bool]]
"""One row per training, of the same episodes in the same order."""


def success_rate(trainings: Successes) -> Proportion:
    """Success rate over trainings and episodes, with its 95 % interval.

    One training has Wilson's interval over its episodes. Several have that of
    :func:`~e0_lightning.metrics.crossed_mean`, which vanishes where all succeed, joined with
    Wilson's over all episodes of all trainings.
    """
    pooled = list(chain.from_iterable(trainings))
    overall = wilson(sum(pooled), len(pooled))
    if len(trainings) == 1:
        return overall
    crossed = crossed_mean(trainings)
    low, high = max(min(crossed.low, overall.low), 0.0), min(max(crossed.high, overall.high), 1.0)
    return overall._replace(low=low, high=high)


def success_difference(first: Successes, second: Successes) -> Difference:
    """Success rate of ``first`` minus that of ``second``, paired by training and episode.

    One training of each has Newcombe's interval over the episodes; several have that over trainings
    and episodes, joined with Newcombe's over all episodes of all trainings.

    Args:
        first: Successes.
        second: Successes of as many trainings in the same episodes.
    """
    overall = paired_difference(list(chain.from_iterable(first)), list(chain.from_iterable(second)))
    if len(first) == 1:
        return overall
    differences = [
        [int(a) - int(b) for a, b in zip(*pair, strict=True)]
        for pair in zip(first, second, strict=True)
    ]
    crossed = crossed_mean(differences)
    low, high = max(min(crossed.low, overall.low), -1.0), min(max(crossed.high, overall.high), 1.0)
    return overall._replace(low=low, high=high)
