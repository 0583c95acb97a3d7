"""Range of each dimension, and what normalization and quantization make of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from e0_lightning.actions.normalizers import QuantileNormalizer
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.data.formats.base import Floats

BINS = (64, 256, 2048)
"""Numbers of bins whose error is shown."""

HARDLY_MOVES = 1e-4
"""Range in robot units up to which the normalizers treat a dimension as constant."""


class Dimension(NamedTuple):
    """Statistics of one dimension, in robot units."""

    name: str
    min: float
    low: float
    """1 % quantile."""
    high: float
    """99 % quantile."""
    max: float
    clipped: float
    """Share of the values outside of what the quantile normalizer maps to [-1, 1]."""
    beyond: float
    """Distance of the outermost of them, relative to the range inside."""
    errors: tuple[float, ...]
    """Mean error of quantization to each number of :data:`BINS`, clipping included."""

    @property
    def note(self) -> str:
        """``constant`` or ``hardly moves``, else empty."""
        extent = self.max - self.min
        return "constant" if extent == 0 else "hardly moves" * (extent < HARDLY_MOVES)


def measure(values: Floats, names: list[str]) -> list[Dimension]:
    """Statistics of each dimension.

    Args:
        values: ``(N, D)``, robot units.
        names: Names of the D dimensions.

    Returns:
        One entry for each dimension; none if there are no values.
    """
    if values.size == 0:
        return []
    robot = torch.from_numpy(values)
    normalizer = QuantileNormalizer(values.shape[1]).fit(robot)
    normalized = normalizer(robot)
    errors = []
    for bins in BINS:
        tokenizer = ActionTokenizer(bins)
        restored = normalizer.undo(tokenizer.decode(tokenizer.encode(normalized)))
        errors.append((restored - robot).abs().mean(dim=0).tolist())
    outside = normalized.abs() > 1 + 1e-5
    beyond = (normalized.abs().amax(dim=0) - 1).clamp(min=0) / 2
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    shares, far = outside.float().mean(dim=0).tolist(), beyond.tolist()
    return [
        Dimension(
            name,
            min=float(values[:, d].min()),
            low=float(low[d]),
            high=float(high[d]),
            max=float(values[:, d].max()),
            clipped=shares[d],
            beyond=far[d],
            errors=tuple(by_bins[d] for by_bins in errors),
        )
        for d, name in enumerate(names)
    ]


def action_table(dimensions: list[Dimension]) -> list[str]:
    """Lines of a table of actions, with their quantization."""
    header = [*_RANGE, "clipped", *(f"err {bins}" for bins in BINS)]
    rows = [
        [*_range(each), f"{each.clipped:.1%}", *(f"{error:.2g}" for error in each.errors)]
        for each in dimensions
    ]
    return _table("actions", header, dimensions, rows)


def state_table(dimensions: list[Dimension]) -> list[str]:
    """Lines of a table of the state."""
    return _table("state", [*_RANGE], dimensions, [_range(each) for each in dimensions])


_RANGE = ("min", "q01", "q99", "max")


def _range(each: Dimension) -> list[str]:
    return [f"{value:.4f}" for value in (each.min, each.low, each.high, each.max)]


def _table(
    kind: str, header: list[str], dimensions: list[Dimension], rows: list[list[str]]
) -> list[str]:
    if not dimensions:
        return []
    width = max(len(each.name) for each in dimensions) + 2
    lines = [f"{kind:<{width + 2}}" + "".join(f" {name:>10}" for name in header)]
    for each, row in zip(dimensions, rows, strict=True):
        cells = "".join(f" {cell:>10}" for cell in row)
        lines.append(f"  {each.name:<{width}}{cells}" + f"  {each.note}" * bool(each.note))
    return lines
