"""Bar chart of success rates with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e0_lightning.benchmarks.plots import figure_class


def plot_success(tables: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the tables of a report beside each other; those with less than two rows are left out.

    Args:
        tables: Each with ``title``, ``baseline`` and ``rows`` of ``rate``, ``low`` and ``high``.
        path: PNG file to write.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
    """
    new_figure = figure_class()
    plotted = [table for table in tables if _num_finished(table) > 1]
    if not plotted:
        return
    height = 1.2 + 0.32 * max(map(_num_finished, plotted))
    figure = new_figure(figsize=(6 * len(plotted), height), layout="constrained")
    panels = figure.subplots(1, len(plotted), squeeze=False)[0]
    for axes, table in zip(panels, plotted, strict=True):
        rows = {name: row for name, row in table["rows"].items() if row}
        rates = [100 * row["rate"] for row in rows.values()]
        # At 0 and 100 % a bound may exceed the rate by a rounding error.
        below = [max(100 * (row["rate"] - row["low"]), 0) for row in rows.values()]
        above = [max(100 * (row["high"] - row["rate"]), 0) for row in rows.values()]
        colors = ["#2b5c8a" if name == table["baseline"] else "#7aa6d8" for name in rows]
        axes.barh(list(rows), rates, xerr=[below, above], color=colors, ecolor="#222", capsize=3)
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="success, %, with its 95 % interval")
        axes.set_title(table["title"])
    figure.savefig(path, dpi=150)


def _num_finished(table: dict[str, Any]) -> int:
    return sum(map(bool, table["rows"].values()))
