"""Experiment files: those in the working directory, else those that ship with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "experiments"
"""The repository's ``experiments`` folder: a link to it in a checkout, a copy in a wheel."""


def find_experiment(name: str | Path) -> Path:
    """Path of an experiment file.

    Args:
        name: A path, or the name of a shipped file such as ``maniskill.yaml`` or
            ``experiments/policy/argmax.yaml``.

    Raises:
        ValueError: If there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    parts = [part for part in path.parts if part not in ("experiments", path.anchor)]
    shipped = SHIPPED.joinpath(*parts)
    if not path.is_absolute() and shipped.is_file():
        return shipped
    names = [str(each.relative_to(SHIPPED)) for each in SHIPPED.rglob("*.yaml")]
    close = difflib.get_close_matches(str(shipped.relative_to(SHIPPED)), names)
    advice = f"Did you mean {' or '.join(close)}?" if close else f"Shipped files lie in {SHIPPED}."
    raise ValueError(
        f"{name}: expected a file, or the name of an experiment that ships with e0-lightning; "
        f"got neither. {advice}"
    )
