"""Robot units to the unit interval of the tokenizer, dimension by dimension, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from e0_lightning.actions.quantiles import RunningQuantiles

_EPSILON = 1e-6


class Normalizer(nn.Module, ABC):
    """An affine map per action dimension, fitted to demonstrations and kept in the state dict.

    A dimension that does not move maps to 0, and back to its value exactly.

    Args:
        dim: Action dimensions D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self._fitted = False

    @abstractmethod
    def fit_statistics(self, statistics: RunningQuantiles) -> Self:
        """Take the map from statistics of D dimensions, and return this object."""

    @abstractmethod
    def _centre_and_scale(self) -> tuple[Tensor, Tensor]:
        """What maps to 0 and the distance that maps to 1 (0 if constant), each ``(D,)``."""

    def fit(self, actions: Tensor) -> Self:
        """Take the map from actions held in memory, with exact quantiles.

        Args:
            actions: ``(N, D)``, robot units.

        Raises:
            ValueError: If the shape is another, there are none, or one is not finite.
        """
        capacity = max(2, len(actions) + len(actions) % 2)
        return self.fit_statistics(RunningQuantiles(self.dim, capacity).update(actions))

    def forward(self, actions: Tensor) -> Tensor:
        """Normalise actions.

        Args:
            actions: ``(…, D)``, robot units.

        Returns:
            ``(…, D)``, without unit.

        Raises:
            ValueError: If the last dimension is not D, or nothing was fitted.
        """
        self._check(actions)
        centre, scale = self._centre_and_scale()
        return torch.where(scale > 0, (actions - centre) / scale, 0.0)

    def undo(self, normalized: Tensor) -> Tensor:
        """Return to robot units, ``(…, D)``: the inverse of calling this object.

        Raises:
            ValueError: If the last dimension is not D, or nothing was fitted.
        """
        self._check(normalized)
        centre, scale = self._centre_and_scale()
        return torch.where(scale > 0, normalized * scale + centre, centre)

    def _check(self, actions: Tensor) -> None:
        if actions.shape[-1] != self.dim:
            raise ValueError(
                f"actions of shape {tuple(actions.shape)}; this normalizer has {self.dim} "
                "dimensions."
            )
        # Asked once, as reading a buffer would make a GPU wait at every call.
        if not self._fitted:
            if any(buffer.isnan().any() for buffer in self.buffers()):
                raise ValueError(
                    f"this {type(self).__name__} has seen no actions; call fit, or load a "
                    "checkpoint."
                )
            self._fitted = True

    def _check_statistics(self, statistics: RunningQuantiles) -> None:
        if statistics.dim != self.dim:
            raise ValueError(
                f"statistics of {statistics.dim} dimensions; this normalizer has {self.dim}."
            )
        if not statistics.count:
            raise ValueError("statistics of no actions at all; are all steps masked as invalid?")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the module to another device, but never to another precision."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers[name]
            if buffer is not None and after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self


class QuantileNormalizer(Normalizer):
    """``2 (x − q_low) / (q_high − q_low + 1e-6) − 1`` (E0, eq. 21).

    Where the quantiles lie within a thousandth of the extremes' distance (a gripper that is seldom
    closed), a grid between them would lose the rare values: there the extremes take their place.

    Args:
        dim: Action dimensions D.
        low: Share of actions below −1.
        high: Share of actions below 1.

    Raises:
        ValueError: If the shares are not increasing within [0, 1].
    """

    low: Tensor
    high: Tensor

    def __init__(self, dim: int, low: float = 0.01, high: float = 0.99) -> None:
        super().__init__(dim)
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"quantiles {low} and {high}; give two shares with 0 ≤ low < high ≤ 1."
            )
        self.shares = (low, high)
        self.register_buffer("low", torch.full((dim,), torch.nan))
        self.register_buffer("high", torch.full((dim,), torch.nan))

    def fit_statistics(self, statistics: RunningQuantiles) -> Self:
        """Take the quantiles from statistics of D dimensions, and return this object.

        Raises:
            ValueError: If the statistics are of other dimensions, or of nothing.
        """
        self._check_statistics(statistics)
        low, high = (statistics.quantile(share) for share in self.shares)
        collapsed = high - low <= 1e-3 * (statistics.max - statistics.min)
        low = torch.where(collapsed, statistics.min, low)
        high = torch.where(collapsed, statistics.max, high)
        constant = _is_constant(high - low, torch.maximum(low.abs(), high.abs()))
        middle = low + (high - low) / 2
        self.low.copy_(torch.where(constant, middle, low))
        self.high.copy_(torch.where(constant, middle, high))
        return self

    def _centre_and_scale(self) -> tuple[Tensor, Tensor]:
        width = self.high - self.low
        scale = torch.where(width > 0, (width + _EPSILON) / 2, 0.0)
        return self.low + scale, scale


class MeanStdNormalizer(Normalizer):
    """``(x − μ) / (σ + 1e-6)`` (E0, eq. 20), the paper's ablation.

    Args:
        dim: Action dimensions D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("mean", torch.full((dim,), torch.nan))
        self.register_buffer("std", torch.full((dim,), torch.nan))

    def fit_statistics(self, statistics: RunningQuantiles) -> Self:
        """Take mean and deviation from statistics of D dimensions, and return this object.

        Raises:
            ValueError: If the statistics are of other dimensions, or of nothing.
        """
        self._check_statistics(statistics)
        low, high = statistics.min, statistics.max
        constant = _is_constant(high - low, torch.maximum(low.abs(), high.abs()))
        middle = low + (high - low) / 2
        self.mean.copy_(torch.where(constant, middle, statistics.mean.float()))
        self.std.copy_(torch.where(constant, 0.0, statistics.std.float()))
        return self

    def _centre_and_scale(self) -> tuple[Tensor, Tensor]:
        return self.mean, torch.where(self.std > 0, self.std + _EPSILON, 0.0)


def _is_constant(width: Tensor, size: Tensor) -> Tensor:
    """Whether a dimension moves by no more than the rounding of its float32 values."""
    return width <= _EPSILON * size.clamp(min=1)
