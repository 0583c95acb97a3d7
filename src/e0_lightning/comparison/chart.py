"""Success of every variant as bars with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(tables: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw tables of a report beside each other, where rows of them are finished to compare.

    Args:
        tables: With ``title``, ``base`` and ``rows`` of ``rate``, ``low`` and ``high``.
        path: PNG to write.

    Raises:
        ModuleNotFoundError: If there is no matplotlib.
    """
    figures = figure_class()
    shown = [table for table in tables if _finished(table) > 1]
    if not shown:
        return
    longest = max(map(_finished, shown))
    figure = figures(figsize=(6 * len(shown), 1.2 + 0.32 * longest), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, table in zip(panels, shown, strict=True):
        rows = {name: row for name, row in table["rows"].items() if row}
        rates = [100 * row["rate"] for row in rows.values()]
        # At 0 and 100 % a bound may pass the rate by a rounding.
        below = [max(100 * (row["rate"] - row["low"]), 0) for row in rows.values()]
        above = [max(100 * (row["high"] - row["rate"]), 0) for row in rows.values()]
        colours = ["#2b5c8a" if name == table["base"] else "#7aa6d8" for name in rows]
        axes.barh(list(rows), rates, xerr=[below, above], color=colours, ecolor="#222", capsize=3)
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="success, %, with Wilson's 95 % interval")
        axes.set_title(table["title"])
    figure.savefig(path, dpi=150)


def _finished(table: dict[str, Any]) -> int:
    """Rows that are not empty."""
    return sum(map(bool, table["rows"].values()))


def figure_class() -> Any:
    """Figure of matplotlib, which draws to files without a display.

    Raises:
        ModuleNotFoundError: If there is no matplotlib, saying how to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "matplotlib is needed to draw: pip install 'e0-lightning[compare]'"
        ) from error
    return Figure
