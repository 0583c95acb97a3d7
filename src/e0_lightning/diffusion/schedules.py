"""Noise levels τ: schedules of samplers and distributions in training; τ = 1 is clean."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from e0_lightning.random import Generator, sample_uniform

_MAX_TAU = 0.999
"""Largest τ in training: at τ = 1 there is no noise and the score diverges."""


class Schedule(ABC):
    """The noise levels of a sampler."""

    def for_process(self, num_bins: int, alpha: float) -> Schedule:
        """The schedule for a process of K bins and one-hot smooth factor α; by default itself."""
        return self

    @abstractmethod
    def __call__(self, num_steps: int) -> Tensor:
        """Noise levels of ``num_steps`` steps: ``(N,)``, increasing from 0, below 1."""


class UniformSchedule(Schedule):
    """Even steps in τ, as in the paper: ``τ_i = i / N``."""

    def __call__(self, num_steps: int) -> Tensor:
        """Noise levels, ``(N,)``."""
        return torch.arange(num_steps) / num_steps


class IdentifiabilitySchedule(Schedule):
    """Even steps in the log signal-to-noise ratio, over the range where it matters.

    A token stands out from K noise values only when ``r = (τ α / (1 − τ))²`` nears ``2 ln K``. The
    first step is at τ = 0, where sampling starts; the others spread from r = 0.02 to r = 8 ln K,
    with ``τ = √r / (α + √r)``. The last step is always at r = 8 ln K, also with two steps.

    Args:
        num_bins: Bins K; None for those of the process.
        alpha: One-hot smooth factor α; None for that of the process.
    """

    def __init__(self, num_bins: int | None = None, alpha: float | None = None) -> None:
        self.num_bins = num_bins
        self.alpha = alpha

    def for_process(self, num_bins: int, alpha: float) -> IdentifiabilitySchedule:
        """The schedule with K and α of a process where it has none of its own."""
        return IdentifiabilitySchedule(self.num_bins or num_bins, self.alpha or alpha)

    def __call__(self, num_steps: int) -> Tensor:
        """Noise levels, ``(N,)``."""
        # Counted from the end, so that a single position is 1 and not 0.
        position = torch.linspace(1, 0, num_steps - 1).flip(0)
        return torch.cat([torch.zeros(1), identifiable_tau(position, self.num_bins, self.alpha)])


class TauDistribution(ABC):
    """Distribution of τ in training."""

    def for_process(self, num_bins: int, alpha: float) -> TauDistribution:
        """The distribution for a process of K bins and factor α; by default itself."""
        return self

    @abstractmethod
    def sample(
        self,
        batch: int,
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sample one τ per row: ``(B,)`` float32 in [0, 1)."""


class BetaTau(TauDistribution):
    """``1 − τ = 0.999 · Beta(a, 1) + 0.001``: prefers high noise, as openpi and the paper do.

    The second parameter of the Beta is the paper's 1, for which ``U^(1/a)`` is an exact sample; a
    sets the preference.

    Args:
        a: First parameter of the Beta, positive; above 1 prefers noise, 1 is uniform.

    Raises:
        ValueError: If a is not positive.
    """

    def __init__(self, a: float = 1.5) -> None:
        if a <= 0:
            raise ValueError(f"a: expected a positive number, got {a}.")
        self.a = a

    def sample(
        self,
        batch: int,
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sample noise levels, ``(B,)``."""
        noise = sample_uniform((batch,), generator, device) ** (1 / self.a)
        return _MAX_TAU * (1 - noise)


class UniformTau(TauDistribution):
    """τ uniform in [0, 0.999)."""

    def sample(
        self,
        batch: int,
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sample noise levels, ``(B,)``."""
        return _MAX_TAU * sample_uniform((batch,), generator, device)


class IdentifiabilityTau(TauDistribution):
    """τ over the range of ``IdentifiabilitySchedule``: log-uniform signal-to-noise, and τ = 0.

    Args:
        num_bins: Bins K; None for those of the process.
        alpha: One-hot smooth factor α; None for that of the process.
        pure_noise: Fraction of samples at τ = 0, a sampler's first step, where the prediction
            depends on the observation alone.

    Raises:
        ValueError: If ``pure_noise`` lies outside [0, 1].
    """

    def __init__(
        self, num_bins: int | None = None, alpha: float | None = None, pure_noise: float = 0.1
    ) -> None:
        if not 0 <= pure_noise <= 1:
            raise ValueError(f"pure_noise: expected a number between 0 and 1, got {pure_noise}.")
        self.num_bins = num_bins
        self.alpha = alpha
        self.pure_noise = pure_noise

    def for_process(self, num_bins: int, alpha: float) -> IdentifiabilityTau:
        """The distribution with K and α of a process where it has none of its own."""
        own = self.num_bins or num_bins, self.alpha or alpha
        return IdentifiabilityTau(*own, self.pure_noise)

    def sample(
        self,
        batch: int,
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sample noise levels, ``(B,)``."""
        position, uniform = sample_uniform((batch, 2), generator, device).unbind(dim=1)
        tau = identifiable_tau(position, self.num_bins, self.alpha)
        return torch.where(uniform < self.pure_noise, 0.0, tau)


def identifiable_tau(position: Tensor, num_bins: int | None, alpha: float | None) -> Tensor:
    """Map [0, 1] to τ so that even positions are even in the log signal-to-noise ratio.

    Args:
        position: 0 is r = 0.02 (the token is hidden by noise), 1 is r = 8 ln K (it is certain).
        num_bins: Bins K.
        alpha: One-hot smooth factor α.

    Returns:
        τ of the same shape, ``√r / (α + √r)``.

    Raises:
        ValueError: If K or α is not known.
    """
    if num_bins is None or alpha is None:
        raise ValueError(
            f"expected num_bins and alpha, got {num_bins} and {alpha}. Give them, or use the "
            "noise levels in a process, which has them."
        )
    low, high = math.log(0.02), math.log(8 * math.log(num_bins))
    root = torch.exp((low + position * (high - low)) / 2)
    return root / (alpha + root)
