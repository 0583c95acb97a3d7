"""Matplotlib, loaded on demand, and the plot of chunks around an obstacle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e0_lightning.benchmarks.two_way_reach import RADIUS, evaluate_chunks


def figure_class() -> Any:
    """Import matplotlib's `Figure`, which needs no display.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Charts need matplotlib: pip install 'e0-lightning[compare]'"
        ) from error
    return Figure


def plot_chunks(panels: dict[str, Tensor], path: Path) -> None:
    """Plot chunks ``(B, H, 2)`` around an obstacle at height 0, colored by way.

    Args:
        panels: Title to chunks.
        path: PNG file to write.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = figure_class()(figsize=(3 * columns, 2.4 * rows), layout="constrained")
    all_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in all_axes:
        axes.set_axis_off()
    angles = torch.linspace(0, 2 * torch.pi, 60)
    for axes, (title, chunks) in zip(all_axes, panels.items(), strict=False):
        over = evaluate_chunks(chunks, torch.zeros(len(chunks))).over
        for chunk, is_over in zip(chunks, over, strict=True):
            axes.plot(*chunk.T, color="#2b5c8a" if is_over else "#c64", alpha=0.3, linewidth=1)
        axes.fill(RADIUS * angles.cos(), RADIUS * angles.sin(), color="#bbb")
        axes.set(xlim=(-1.1, 1.1), ylim=(-0.9, 0.9), aspect="equal")
        axes.set_title(title, fontsize=8)
    figure.savefig(path, dpi=150)
