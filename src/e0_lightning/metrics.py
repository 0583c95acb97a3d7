"""What training and evaluation report: token accuracy, action error, success rate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from e0_lightning.types import EpisodeResult


class TokenAccuracy(Metric):
    """Share of tokens whose most likely bin is the true one, overall and by noise level.

    Accuracy that does not rise with τ says that the noisy tokens tell the network nothing.

    Args:
        edges: Increasing borders of the τ bins, each of which includes its lower border.

    Raises:
        ValueError: If there are fewer than two borders, or they do not increase.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor
    edges: Tensor

    def __init__(self, edges: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)) -> None:
        super().__init__()
        if len(edges) < 2 or any(low >= high for low, high in pairwise(edges)):
            raise ValueError(f"edges are {tuple(edges)}; give two or more, in increasing order.")
        self.register_buffer("edges", torch.tensor(list(edges)), persistent=False)
        counts = torch.zeros(len(edges) - 1, dtype=torch.long)
        self.add_state("correct", counts, dist_reduce_fx="sum")
        self.add_state("total", counts.clone(), dist_reduce_fx="sum")

    def update(self, logits: Tensor, tokens: Tensor, valid: Tensor, tau: Tensor) -> None:
        """Count tokens.

        Args:
            logits: ``(B, L, K)``.
            tokens: ``(B, L)`` int64.
            valid: ``(B, L)`` bool; the others do not count.
            tau: ``(B,)``, within the edges.
        """
        bins = torch.bucketize(tau.float(), self.edges[1:-1], right=True)
        right = (logits.argmax(dim=-1) == tokens) & valid
        self.correct.index_add_(0, bins, right.sum(dim=-1))
        self.total.index_add_(0, bins, valid.sum(dim=-1))

    def compute(self) -> dict[str, Tensor]:
        """Return ``overall``, a scalar, and ``by_tau``, one share per τ bin; NaN where empty."""
        return {
            "overall": self.correct.sum() / self.total.sum(),
            "by_tau": self.correct / self.total,
        }


class ActionL1(Metric):
    """Mean absolute error of each action dimension over valid steps, in robot units.

    Args:
        dim: Action dimensions D.
    """

    full_state_update = False
    error: Tensor
    steps: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.add_state("error", torch.zeros(dim), dist_reduce_fx="sum")
        self.add_state("steps", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, actions: Tensor, valid: Tensor) -> None:
        """Add up errors.

        Args:
            predicted: ``(B, H, D)``, robot units.
            actions: ``(B, H, D)``, robot units.
            valid: ``(B, H)`` bool; the others do not count.
        """
        error = (predicted - actions).abs()[valid]
        self.error += error.sum(dim=0, dtype=torch.float32)
        self.steps += valid.sum()

    def compute(self) -> Tensor:
        """Return ``(D,)``; NaN where no step was valid."""
        return self.error / self.steps


class Proportion(NamedTuple):
    """A success rate with its 95 % interval."""

    rate: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int) -> Proportion:
    """Share of successes with Wilson's 95 % score interval (Wilson 1927).

    With k successes of n and z = 1.96, ``(k + z²/2 ± z √(k (n - k) / n + z²/4)) / (n + z²)``:
    unlike the normal interval it stays within [0, 1] and does not vanish at 0 or n. Without an
    episode the rate is NaN, between 0 and 1.
    """
    if n == 0:
        return Proportion(math.nan, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.975)
    half = z * math.sqrt(successes * (n - successes) / n + z**2 / 4)
    middle = successes + z**2 / 2
    low, high = (middle - half) / (n + z**2), (middle + half) / (n + z**2)
    # At 0 and n a bound is exactly 0 or 1, but for rounding.
    return Proportion(successes / n, max(low, 0.0), min(high, 1.0), n)


class Difference(NamedTuple):
    """A success rate less another on the same n episodes, with its 95 % interval."""

    difference: float
    low: float
    high: float
    n: int


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """How much likelier ``first`` succeeds, with Newcombe's interval for pairs.

    The square-and-add interval of Wilson's bounds [l, u] of either rate p, joined by the
    correlation φ of the pairs (Newcombe 1998, Statistics in Medicine 17:2635, method 10),
    ``p₁ − p₂ − √((p₁ − l₁)² − 2 φ (p₁ − l₁)(u₂ − p₂) + (u₂ − p₂)²)`` and likewise above. φ comes
    from the table of both, its numerator brought n/2 nearer to 0 where it is positive. Without an
    episode the difference is NaN, between -1 and 1.

    Args:
        first: Successes.
        second: Successes of the other in the same episodes, in the same order.

    Raises:
        ValueError: If they are not as many.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} episodes make no pairs; give the same.")
    n = len(first)
    if n == 0:
        return Difference(math.nan, -1.0, 1.0, 0)
    one, two = wilson(sum(first), n), wilson(sum(second), n)
    phi = _correlation(first, second)

    def reach(below: float, above: float) -> float:
        return math.sqrt(max(below**2 - 2 * phi * below * above + above**2, 0.0))

    found = one.rate - two.rate
    low = found - reach(one.rate - one.low, two.high - two.rate)
    high = found + reach(two.rate - two.low, one.high - one.rate)
    return Difference(found, low, high, n)


def _correlation(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Correlation φ of pairs with Newcombe's correction for continuity; 0 where one is constant."""
    n, ones, twos = len(first), sum(first), sum(second)
    spread = ones * (n - ones) * twos * (n - twos)
    if spread == 0:
        return 0.0
    both = sum(a and b for a, b in zip(first, second, strict=True))
    determinant = n * both - ones * twos
    corrected = determinant if determinant < 0 else max(determinant - n / 2, 0.0)
    return corrected / math.sqrt(spread)


class SuccessRate(Metric):
    """Share of episodes that succeeded, with its interval, over all ranks.

    An episode counts once, though a distributed sampler lets two ranks play it to share evenly;
    then what the later rank saw counts.
    """

    full_state_update = False
    episodes: list[Tensor]
    successes: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("episodes", [], dist_reduce_fx="cat")
        self.add_state("successes", [], dist_reduce_fx="cat")

    def update(self, results: Sequence[EpisodeResult]) -> None:
        """Count episodes; one that broke off is no success."""
        numbers = [_number(each) for each in results]
        self.episodes.append(torch.tensor(numbers, dtype=torch.long, device=self.device))
        success = [each.success for each in results]
        self.successes.append(torch.tensor(success, dtype=torch.bool, device=self.device))

    def compute(self) -> Proportion:
        """Return rate, bounds and n, as :func:`wilson` has them."""
        episodes, successes = dim_zero_cat(self.episodes), dim_zero_cat(self.successes)
        once = dict(zip(episodes.tolist(), successes.tolist(), strict=True))
        return wilson(sum(once.values()), len(once))


def _number(result: EpisodeResult) -> int:
    """What tells an episode from all others, as ranks can exchange it."""
    text = repr((result.task, result.seed, tuple(map(float, result.camera))))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)
