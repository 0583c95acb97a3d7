"""Metrics of training and evaluation: token accuracy, action error, success rate, score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from e0_lightning.types import EpisodeResult


class TokenAccuracy(Metric):
    """Fraction of tokens whose most likely bin is the true one, overall and by noise level.

    If accuracy does not rise with τ, the network ignores the noisy tokens.

    Args:
        edges: Increasing edges of the τ bins, each bin including its lower edge.

    Raises:
        ValueError: If there are fewer than two edges, or they do not increase.
    """

    full_state_update = False
    correct: Tensor
    total: Tensor
    edges: Tensor

    def __init__(self, edges: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)) -> None:
        super().__init__()
        if len(edges) < 2 or any(low >= high for low, high in pairwise(edges)):
            raise ValueError(f"edges: expected two or more, increasing, got {tuple(edges)}.")
        self.register_buffer("edges", torch.tensor(list(edges)), persistent=False)
        counts = torch.zeros(len(edges) - 1, dtype=torch.long)
        self.add_state("correct", counts, dist_reduce_fx="sum")
        self.add_state("total", counts.clone(), dist_reduce_fx="sum")

    def update(self, logits: Tensor, tokens: Tensor, valid: Tensor, tau: Tensor) -> None:
        """Count tokens.

        Args:
            logits: ``(B, L, K)``.
            tokens: ``(B, L)`` int64.
            valid: ``(B, L)`` bool; other tokens are ignored.
            tau: ``(B,)``, within the edges.
        """
        bins = torch.bucketize(tau.float(), self.edges[1:-1], right=True)
        right = (logits.argmax(dim=-1) == tokens) & valid
        self.correct.index_add_(0, bins, right.sum(dim=-1))
        self.total.index_add_(0, bins, valid.sum(dim=-1))

    def compute(self) -> dict[str, Tensor]:
        """Return ``overall``, a scalar, and ``by_tau``, one fraction per τ bin; NaN if empty."""
        return {
            "overall": self.correct.sum() / self.total.sum(),
            "by_tau": self.correct / self.total,
        }


class ActionL1(Metric):
    """Mean absolute error of each action dimension over valid steps, in robot units.

    Args:
        dim: Action dimensions D.
        difference: Difference of actions, ``(B, H, D)`` twice to ``(B, H, D)``, where it is not
            that of numbers, such as ``ActionSpace.difference`` for angles and rotations.
    """

    full_state_update = False
    error: Tensor
    steps: Tensor

    def __init__(
        self, dim: int, difference: Callable[[Tensor, Tensor], Tensor] = torch.sub
    ) -> None:
        super().__init__()
        self.difference = difference
        self.add_state("error", torch.zeros(dim), dist_reduce_fx="sum")
        self.add_state("steps", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, actions: Tensor, valid: Tensor) -> None:
        """Accumulate errors.

        Args:
            predicted: ``(B, H, D)``, robot units.
            actions: ``(B, H, D)``, robot units.
            valid: ``(B, H)`` bool; other steps are ignored.
        """
        error = self.difference(predicted, actions).abs()[valid]
        self.error += error.sum(dim=0, dtype=torch.float32)
        self.steps += valid.sum()

    def compute(self) -> Tensor:
        """Return ``(D,)``; NaN if no step was valid."""
        return self.error / self.steps


class Proportion(NamedTuple):
    """A success rate over n episodes with its 95 % interval."""

    rate: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int) -> Proportion:
    """Success rate with Wilson's 95 % score interval (Wilson 1927).

    With k successes of n and z = 1.96, ``(k + z²/2 ± z √(k (n - k) / n + z²/4)) / (n + z²)``:
    unlike the normal interval it stays within [0, 1] and does not vanish for k = 0 or n. Without
    episodes the rate is NaN and the interval [0, 1].
    """
    if n == 0:
        return Proportion(math.nan, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.975)
    half = z * math.sqrt(successes * (n - successes) / n + z**2 / 4)
    middle = successes + z**2 / 2
    low, high = (middle - half) / (n + z**2), (middle + half) / (n + z**2)
    # For k = 0 and n a bound is exactly 0 or 1, apart from rounding.
    return Proportion(successes / n, max(low, 0.0), min(high, 1.0), n)


class Mean(NamedTuple):
    """A mean over n episodes with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_score(scores: Sequence[float]) -> Mean:
    """Mean of scores in [0, 1] with Student's 95 % interval, cut off at 0 and 1.

    With the standard deviation s of n scores and the 97.5 % quantile t of Student's distribution of
    n − 1 degrees of freedom, ``mean ± t s / √n``. Without two scores the interval is [0, 1].
    """
    n = len(scores)
    mean = float(np.mean(scores)) if n else math.nan
    if n < 2:
        return Mean(mean, 0.0, 1.0, n)
    half = float(stdtrit(n - 1, 0.975) * np.std(scores, ddof=1)) / math.sqrt(n)
    return Mean(mean, max(mean - half, 0.0), min(mean + half, 1.0), n)


def crossed_mean(scores: Sequence[Sequence[float]]) -> Mean:
    """Mean over trainings and episodes, with a 95 % interval over both.

    Trainings and episodes are drawn at random and crossed, every training on every episode. With
    the variances v of the means of S trainings and w of the means of E episodes, ``mean ± t √(v/S +
    w/E)``, where t has Satterthwaite's degrees of freedom. What is particular to a training on an
    episode counts in both terms, so that the interval is rather too wide.

    Args:
        scores: S rows, one per training, of E scores; S and E at least 2.

    Raises:
        ValueError: If there are too few rows or scores, or rows of different lengths.
    """
    if len(scores) < 2 or len({len(row) for row in scores}) != 1 or len(scores[0]) < 2:
        raise ValueError(
            "scores: expected 2 or more trainings on the same 2 or more episodes, got rows of "
            f"{[len(row) for row in scores]}."
        )
    table = np.asarray(scores, dtype=float)
    mean, sizes = float(table.mean()), np.array(table.shape)
    variances = np.array([table.mean(axis=1 - axis).var(ddof=1) for axis in (0, 1)]) / sizes
    total = variances.sum()
    if total == 0:
        return Mean(mean, mean, mean, table.size)
    freedom = total**2 / (variances**2 / (sizes - 1)).sum()
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(total)
    return Mean(mean, mean - half, mean + half, table.size)


class Difference(NamedTuple):
    """Difference of two success rates on the same n episodes, with its 95 % interval."""

    difference: float
    low: float
    high: float
    n: int


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Success rate of ``first`` minus that of ``second``, with Newcombe's paired interval.

    The square-and-add interval of Wilson's bounds [l, u] of each rate p, with the correlation φ of
    the pairs (Newcombe 1998, Statistics in Medicine 17:2635, method 10); the lower bound is
    ``p₁ − p₂ − √((p₁ − l₁)² − 2 φ (p₁ − l₁)(u₂ − p₂) + (u₂ − p₂)²)``, the upper one analogous. φ is
    computed from the 2×2 table, its numerator reduced by n/2 (not below 0) if positive. Without
    episodes the difference is NaN and the interval [-1, 1].

    Args:
        first: Successes.
        second: Successes in the same episodes, in the same order.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"expected the same episodes twice, got {len(first)} and {len(second)}.")
    n = len(first)
    if n == 0:
        return Difference(math.nan, -1.0, 1.0, 0)
    one, two = wilson(sum(first), n), wilson(sum(second), n)
    phi = _correlation(first, second)

    def half_width(below: float, above: float) -> float:
        return math.sqrt(max(below**2 - 2 * phi * below * above + above**2, 0.0))

    difference = one.rate - two.rate
    low = difference - half_width(one.rate - one.low, two.high - two.rate)
    high = difference + half_width(two.rate - two.low, one.high - one.rate)
    return Difference(difference, low, high, n)


def _correlation(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Correlation φ of pairs with Newcombe's continuity correction; 0 if either is constant."""
    n, ones, twos = len(first), sum(first), sum(second)
    product = ones * (n - ones) * twos * (n - twos)
    if product == 0:
        return 0.0
    both = sum(a and b for a, b in zip(first, second, strict=True))
    determinant = n * both - ones * twos
    corrected = determinant if determinant < 0 else max(determinant - n / 2, 0.0)
    return corrected / math.sqrt(product)


class SuccessRate(Metric):
    """Success rate over the episodes of all ranks, with its 95 % interval.

    An episode counts once, even if a distributed sampler pads by running it on two ranks; the
    result of the later rank is used.
    """

    full_state_update = False
    episodes: list[Tensor]
    successes: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("episodes", [], dist_reduce_fx="cat")
        self.add_state("successes", [], dist_reduce_fx="cat")

    def update(self, results: Sequence[EpisodeResult]) -> None:
        """Count episodes; one that failed with an error is no success."""
        keys = [_key(result) for result in results]
        self.episodes.append(torch.tensor(keys, dtype=torch.long, device=self.device))
        success = [result.success for result in results]
        self.successes.append(torch.tensor(success, dtype=torch.bool, device=self.device))

    def compute(self) -> Proportion:
        """Return the rate with its interval, see :func:`wilson`."""
        episodes, successes = dim_zero_cat(self.episodes), dim_zero_cat(self.successes)
        by_episode = dict(zip(episodes.tolist(), successes.tolist(), strict=True))
        return wilson(sum(by_episode.values()), len(by_episode))


def _key(result: EpisodeResult) -> int:
    """Hash of an episode's identity, which ranks can exchange."""
    text = repr((result.task, result.seed, tuple(map(float, result.camera))))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)
