"""Per-dimension normalization of actions and states, fitted to demonstrations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from e0_lightning.actions.quantiles import RunningQuantiles

_EPSILON = 1e-6

_MIN_RANGE = 1e-4
"""Range in robot units up to which a dimension is constant: 0.1 mm, 0.1 mrad."""

_RARE = 0.001
"""Fraction of values at either end that are outliers where the bulk is constant."""


class Normalizer(nn.Module, ABC):
    """An affine map per dimension, fitted to demonstrations and saved in the state dict.

    A constant dimension, whose values stay within 1e-4 (robot units) of each other, maps to 0 and
    back to its value exactly. Without this rule, sensor jitter of 1e-6 m would turn a deviation of
    1 mm into hundreds of normalized units.

    Args:
        dim: Dimensions D.

    Raises:
        ValueError: If ``dim`` is None or negative.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        if dim is None or dim < 0:
            raise ValueError(
                f"{type(self).__name__}.dim: expected a number of dimensions, got {dim}. "
                "Set it to the action dimensions of the demonstrations."
            )
        self.dim = dim
        self._is_fitted = False

    @abstractmethod
    def fit_statistics(self, statistics: RunningQuantiles) -> Self:
        """Fit the map to statistics of D dimensions, and return this object."""

    @abstractmethod
    def _center_and_scale(self) -> tuple[Tensor, Tensor]:
        """Value that maps to 0 and distance that maps to 1 (0 if constant), each ``(D,)``."""

    def fit(self, actions: Tensor) -> Self:
        """Fit the map to actions in memory, with exact quantiles.

        Args:
            actions: ``(N, D)``, robot units.

        Raises:
            ValueError: If the shape differs, there are no actions, or a value is not finite.
        """
        capacity = max(2, len(actions) + len(actions) % 2)
        return self.fit_statistics(RunningQuantiles(self.dim, capacity).update(actions))

    def forward(self, actions: Tensor) -> Tensor:
        """Normalize actions.

        Args:
            actions: ``(…, D)``, robot units.

        Returns:
            ``(…, D)``, without unit.

        Raises:
            ValueError: If the last dimension is not D, or the normalizer is not fitted.
        """
        self._check(actions)
        center, scale = self._center_and_scale()
        return torch.where(scale > 0, (actions - center) / scale, 0.0)

    def undo(self, normalized: Tensor) -> Tensor:
        """Convert back to robot units, ``(…, D)``.

        Raises:
            ValueError: If the last dimension is not D, or the normalizer is not fitted.
        """
        self._check(normalized)
        center, scale = self._center_and_scale()
        return torch.where(scale > 0, normalized * scale + center, center)

    def _check(self, actions: Tensor) -> None:
        if actions.shape[-1] != self.dim:
            raise ValueError(
                f"{type(self).__name__}: expected {self.dim} dimensions, got a tensor of shape "
                f"{tuple(actions.shape)}."
            )
        # Checked once, as reading a buffer synchronizes with the GPU at every call.
        if not self._is_fitted:
            if any(buffer.isnan().any() for buffer in self.buffers()):
                raise ValueError(
                    f"{type(self).__name__}: not fitted yet. Call fit, or load a checkpoint."
                )
            self._is_fitted = True

    def _check_statistics(self, statistics: RunningQuantiles) -> None:
        if statistics.dim != self.dim:
            raise ValueError(
                f"{type(self).__name__}: expected statistics of {self.dim} dimensions, got "
                f"{statistics.dim}."
            )
        if not statistics.count:
            raise ValueError(
                f"{type(self).__name__}: expected statistics of some values, got none. Check that "
                "the demonstrations have valid steps."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device, but keep the precision."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers[name]
            if buffer is not None and after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self


class QuantileNormalizer(Normalizer):
    """``2 (x − q_low) / (q_high − q_low + 1e-6) − 1`` (E0, eq. 21).

    The quantiles ignore outliers of any size. Where they coincide (within 1e-4), as for a gripper
    that rarely closes, the 0.1 % and 99.9 % quantiles replace them: values more frequent than that
    stay distinguishable, and rarer ones, at least one at either end, are outliers. Where these
    coincide too, the dimension is constant.

    Args:
        dim: Dimensions D.
        low: Fraction of values below −1.
        high: Fraction of values below 1.

    Raises:
        ValueError: If ``dim`` is None, or the fractions are not increasing within [0, 1].
    """

    low: Tensor
    high: Tensor

    def __init__(self, dim: int | None = None, low: float = 0.01, high: float = 0.99) -> None:
        super().__init__(dim)
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"low, high: expected fractions with 0 ≤ low < high ≤ 1, got {low} and {high}."
            )
        self.fractions = (low, high)
        self.register_buffer("low", torch.full((self.dim,), torch.nan))
        self.register_buffer("high", torch.full((self.dim,), torch.nan))

    def fit_statistics(self, statistics: RunningQuantiles) -> Self:
        """Fit the map to quantiles of D dimensions, and return this object.

        Raises:
            ValueError: If the statistics have other dimensions or no values.
        """
        self._check_statistics(statistics)
        low, high = (statistics.quantile(fraction) for fraction in self.fractions)
        coincide = _is_constant(low, high)
        # The half rank keeps rounding from including the most extreme value.
        rare = min(max(_RARE, 1.5 / max(statistics.count - 1, 1)), 0.5)
        low = torch.where(coincide, statistics.quantile(rare, "lower"), low)
        high = torch.where(coincide, statistics.quantile(1 - rare, "higher"), high)
        middle = low + (high - low) / 2
        constant = _is_constant(low, high)
        self.low.copy_(torch.where(constant, middle, low))
        self.high.copy_(torch.where(constant, middle, high))
        return self

    def _center_and_scale(self) -> tuple[Tensor, Tensor]:
        width = self.high - self.low
        scale = torch.where(width > 0, (width + _EPSILON) / 2, 0.0)
        return self.low + scale, scale


class MeanStdNormalizer(Normalizer):
    """``(x − μ) / (σ + 1e-6)`` (E0, eq. 20), the paper's ablation.

    Args:
        dim: Dimensions D.

    Raises:
        ValueError: If ``dim`` is None.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim)
        self.register_buffer("mean", torch.full((self.dim,), torch.nan))
        self.register_buffer("std", torch.full((self.dim,), torch.nan))

    def fit_statistics(self, statistics: RunningQuantiles) -> Self:
        """Fit the map to mean and standard deviation of D dimensions, and return this object.

        Raises:
            ValueError: If the statistics have other dimensions or no values.
        """
        self._check_statistics(statistics)
        low, high = statistics.min, statistics.max
        constant = _is_constant(low, high)
        middle = low + (high - low) / 2
        self.mean.copy_(torch.where(constant, middle, statistics.mean.float()))
        self.std.copy_(torch.where(constant, 0.0, statistics.std.float()))
        return self

    def _center_and_scale(self) -> tuple[Tensor, Tensor]:
        return self.mean, torch.where(self.std > 0, self.std + _EPSILON, 0.0)


def _is_constant(low: Tensor, high: Tensor) -> Tensor:
    """Whether the range is at most `_MIN_RANGE`, or the rounding of large float32 values."""
    size = torch.maximum(low.abs(), high.abs())
    return high - low <= (_EPSILON * size).clamp(min=_MIN_RANGE)
