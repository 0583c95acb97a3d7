"""Which noise levels τ a sampler visits, and which ones training draws; τ = 1 is clean."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from e0_lightning.random import sample_uniform

_CLEANEST = 0.999
"""Largest τ that training draws: at τ = 1 the noise is gone and the score diverges."""


class Schedule(ABC):
    """The τ grid of a sampler."""

    @abstractmethod
    def __call__(self, num_steps: int) -> Tensor:
        """List the noise levels of ``num_steps`` steps: ``(N,)``, increasing from 0, below 1."""


class UniformSchedule(Schedule):
    """Even steps in τ, as in the paper: ``τ_i = i / N``."""

    def __call__(self, num_steps: int) -> Tensor:
        """List ``(N,)`` noise levels."""
        return torch.arange(num_steps) / num_steps


class IdentifiabilitySchedule(Schedule):
    """Even steps in the logarithm of the signal-to-noise ratio, over the range where it decides.

    A token stands out from K noise values only when ``r = (τ α / (1 − τ))²`` nears ``2 ln K``; the
    first step is at τ = 0, where sampling starts, the others spread from r = 0.02 to 8 ln K, with
    ``τ = √r / (α + √r)``.

    Args:
        num_bins: Bins K.
        alpha: Smooth factor α of the one-hots.
    """

    def __init__(self, num_bins: int = 2048, alpha: float = 0.1) -> None:
        self.num_bins = num_bins
        self.alpha = alpha

    def __call__(self, num_steps: int) -> Tensor:
        """List ``(N,)`` noise levels."""
        position = torch.linspace(0, 1, num_steps - 1)
        return torch.cat([torch.zeros(1), identifiable_tau(position, self.num_bins, self.alpha)])


class TauDistribution(ABC):
    """How training draws τ."""

    @abstractmethod
    def sample(
        self,
        batch: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw one τ per sample: ``(B,)`` float32 in [0, 1)."""


class BetaTau(TauDistribution):
    """``1 − τ = 0.999 · Beta(a, 1) + 0.001``: biased to high noise, as openpi and the paper do.

    The second parameter of the Beta stays at the paper's 1, for which ``U^(1/a)`` is an exact draw
    that a generator can decide; the bias is set by a.

    Args:
        a: First parameter of the Beta, positive; above 1 leans to noise, 1 is uniform.

    Raises:
        ValueError: If a is not positive.
    """

    def __init__(self, a: float = 1.5) -> None:
        if a <= 0:
            raise ValueError(f"a is {a}; a Beta tau_distribution needs a positive parameter.")
        self.a = a

    def sample(
        self,
        batch: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw ``(B,)`` noise levels."""
        noise = sample_uniform((batch,), generator, device) ** (1 / self.a)
        return _CLEANEST * (1 - noise)


class UniformTau(TauDistribution):
    """τ uniform in [0, 0.999)."""

    def sample(
        self,
        batch: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw ``(B,)`` noise levels."""
        return _CLEANEST * sample_uniform((batch,), generator, device)


class IdentifiabilityTau(TauDistribution):
    """τ as ``IdentifiabilitySchedule`` visits it: log-uniform signal-to-noise ratio, and τ = 0.

    Args:
        num_bins: Bins K.
        alpha: Smooth factor α of the one-hots.
        pure_noise: Share of samples at τ = 0, the first of a sampler's steps, where the answer must
            come from the observation alone.

    Raises:
        ValueError: If ``pure_noise`` is no share.
    """

    def __init__(self, num_bins: int = 2048, alpha: float = 0.1, pure_noise: float = 0.1) -> None:
        if not 0 <= pure_noise <= 1:
            raise ValueError(f"pure_noise is {pure_noise}; give a share between 0 and 1.")
        self.num_bins = num_bins
        self.alpha = alpha
        self.pure_noise = pure_noise

    def sample(
        self,
        batch: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw ``(B,)`` noise levels."""
        position, lot = sample_uniform((2, batch), generator, device)
        return torch.where(
            lot < self.pure_noise, 0.0, identifiable_tau(position, self.num_bins, self.alpha)
        )


def identifiable_tau(position: Tensor, num_bins: int, alpha: float) -> Tensor:
    """Map [0, 1] to τ so that even positions are even in log signal-to-noise ratio.

    Args:
        position: 0 is r = 0.02 (a token is lost in noise), 1 is r = 8 ln K (it is plain).
        num_bins: Bins K.
        alpha: Smooth factor α of the one-hots.

    Returns:
        τ of the same shape, ``√r / (α + √r)``.
    """
    low, high = math.log(0.02), math.log(8 * math.log(num_bins))
    root = torch.exp((low + position * (high - low)) / 2)
    return root / (alpha + root)
