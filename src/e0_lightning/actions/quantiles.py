"""Quantiles, moments and extremes of a stream of vectors, in one pass and bounded memory."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor


class RunningQuantiles:
    """Per-dimension statistics of a stream; quantiles are exact up to ``capacity`` values.

    A deterministic compactor sketch (Manku, Rajagopalan and Lindsay, SIGMOD 1998; Karnin, Lang and
    Liberty, FOCS 2016). Level h holds values that each represent 2^h values of the stream. A level
    that reaches the capacity k is sorted, and every second value moves up a level, alternately the
    odd and the even ones. One such step changes the rank of any value by at most 2^h, and two in
    turn by no more than one does, so that after N values no rank is off by more than
    ``(floor(log2(N / k)) + 3) / (2 k)`` of N: below 0.0005 for 10^8 values at the default capacity,
    which then takes 0.9 MB per dimension. ``rank_error`` is the bound for the actual stream.

    Args:
        dim: Dimensions D.
        capacity: Values k per level and dimension, even.

    Raises:
        ValueError: If the capacity is odd or below 2.
    """

    def __init__(self, dim: int, capacity: int = 16384) -> None:
        if capacity < 2 or capacity % 2:
            raise ValueError(f"capacity: expected an even number from 2 on, got {capacity}.")
        self.dim = dim
        self.capacity = capacity
        self.count = 0
        self.min = torch.full((dim,), torch.inf)
        self.max = torch.full((dim,), -torch.inf)
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._squares = torch.zeros(dim, dtype=torch.float64)
        self._levels: list[list[Tensor]] = [[]]
        self._keep_odd: list[bool] = [False]
        self._over = 0
        self._under = 0

    @property
    def std(self) -> Tensor:
        """Standard deviation (of the population), ``(D,)`` float64."""
        return (self._squares / max(self.count, 1)).sqrt()

    @property
    def rank_error(self) -> float:
        """Bound on the error of a quantile's rank, as a fraction of the stream; 0 while exact."""
        return max(self._over, self._under) / max(self.count, 1)

    def update(self, values: Tensor) -> RunningQuantiles:
        """Add the next values of the stream.

        Args:
            values: ``(N, D)``, any unit.

        Returns:
            This object.

        Raises:
            ValueError: If the shape differs, or a value is not finite.
        """
        if values.ndim != 2 or values.shape[1] != self.dim:
            raise ValueError(f"values: expected shape (N, {self.dim}), got {tuple(values.shape)}.")
        if not values.isfinite().all():
            row, dimension = (~values.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"values: expected finite numbers, got {values[row, dimension].item()} in row "
                f"{row}, dimension {dimension}. Repair or leave out the demonstration."
            )
        if len(values):
            self._levels[0].append(values.detach().to("cpu", torch.float32, copy=True))
            self._add_moments(self._moments_of(self._levels[0][-1]))
            self._compact()
        return self

    def quantile(
        self, q: float, interpolation: Literal["linear", "lower", "higher"] = "linear"
    ) -> Tensor:
        """Value below which a fraction q of the stream lies, as ``torch.quantile`` defines it.

        Args:
            q: Fraction in [0, 1].
            interpolation: Between two neighboring values, or the lower or higher one of them.

        Returns:
            ``(D,)`` float32.

        Raises:
            ValueError: If there are no values yet, or q lies outside [0, 1].
        """
        if not self.count:
            raise ValueError("quantile: expected some values, got none. Call update first.")
        if not 0 <= q <= 1:
            raise ValueError(f"q: expected a fraction between 0 and 1, got {q}.")
        parts = [(torch.cat(level), 2**h) for h, level in enumerate(self._levels) if level]
        values, order = torch.cat([part for part, _ in parts]).sort(dim=0)
        weights = torch.cat([torch.full((len(part),), weight) for part, weight in parts])
        ranks = weights[order].cumsum(dim=0).T.contiguous()
        position = torch.tensor(q, dtype=torch.float64) * (self.count - 1)
        lower, upper = (
            values.T.gather(1, torch.searchsorted(ranks, rank.repeat(self.dim, 1), right=True))
            for rank in (position.floor().long(), position.ceil().long())
        )
        ends = {"lower": torch.zeros_like(position), "higher": torch.ones_like(position)}
        fraction = ends.get(interpolation, position.frac())
        return torch.lerp(lower.double(), upper.double(), fraction).float().squeeze(1)

    @staticmethod
    def _moments_of(values: Tensor) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
        double = values.double()
        mean = double.mean(dim=0)
        return (
            len(values),
            mean,
            (double - mean).square().sum(dim=0),
            values.amin(dim=0),
            values.amax(dim=0),
        )

    def _add_moments(self, moments: tuple[int, Tensor, Tensor, Tensor, Tensor]) -> None:
        """Combine moments without cancellation (Chan, Golub and LeVeque, 1979)."""
        count, mean, squares, low, high = moments
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self._squares = self._squares + squares + shift.square() * (self.count * count / total)
        self.min = torch.minimum(self.min, low)
        self.max = torch.maximum(self.max, high)
        self.count = total

    def _add_level(self, level: int) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
            self._keep_odd.append(False)

    def _compact(self) -> None:
        level = 0
        while level < len(self._levels):
            size = sum(map(len, self._levels[level]))
            # Nothing is dropped while the stream fits into level 0.
            if size > self.capacity or (level and size >= self.capacity):
                self._promote(level, torch.cat(self._levels[level]))
            level += 1

    def _promote(self, level: int, values: Tensor) -> None:
        even = len(values) // 2 * 2
        odd = self._keep_odd[level]
        # Clones, as a view would keep the whole level in memory. NumPy sorts twice as fast.
        self._add_level(level + 1)
        ordered = torch.from_numpy(np.sort(values[:even].T.contiguous().numpy()))
        self._levels[level + 1].append(ordered.T[int(odd) :: 2].clone())
        self._levels[level] = [values[even:].clone()] if even < len(values) else []
        self._keep_odd[level] = not odd
        if odd:
            self._under += 2**level
        else:
            self._over += 2**level
