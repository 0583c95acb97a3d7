"""What is compared: tables of variants, each the words that turn the benchmark into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Words = list[str]
"""Files over the benchmark's, and options of ``lightning``, which start with two dashes."""


@dataclass(frozen=True)
class Table:
    """Variants of one benchmark, compared to the first of them.

    Args:
        title: What stands over it.
        trained: Name to words of what is trained, the first one before all.
        sampled: Name to words of what the first one's weights are played with, untrained.
    """

    title: str
    trained: dict[str, Words]
    sampled: dict[str, Words] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Name of the variant that the others are compared to."""
        return next(iter(self.trained))

    @property
    def names(self) -> list[str]:
        """Every variant, in order."""
        return [*self.trained, *self.sampled]


def read_table(path: str | Path) -> Table:
    """Read a table from YAML.

    Raises:
        ValueError: If it holds anything else, or a name that is no name of a folder.
    """
    import yaml

    try:
        found: Any = yaml.safe_load(Path(path).read_text())
        table = Table(**found)
        words = [*table.trained.values(), *table.sampled.values()]
    except (OSError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path}: found no table ({error}); `title`, `trained` and, if wanted, `sampled` are "
            "wanted, the latter two with a list of files and --options under each name."
        ) from error
    if not table.trained or not all(isinstance(each, list) for each in words):
        raise ValueError(f"{path}: every variant needs a list, and `trained` one variant at least.")
    if strange := [name for name in table.names if "/" in name or name.startswith(".")]:
        raise ValueError(f"{path}: {strange} are to be folders; give them names without a slash.")
    return table


def read_tables(paths: Sequence[str | Path]) -> list[Table]:
    """Read tables that a variant may stand in several of, everywhere alike.

    Raises:
        ValueError: If a name means two things.
    """
    tables = [read_table(path) for path in paths]
    known: dict[str, tuple[Words, str | None]] = {}
    for table in tables:
        trained = {name: (words, None) for name, words in table.trained.items()}
        sampled = {name: (words, table.base) for name, words in table.sampled.items()}
        for name, meant in {**trained, **sampled}.items():
            if known.setdefault(name, meant) != meant:
                raise ValueError(
                    f"{name} means {known[name]} and {meant}; give one of them another name."
                )
    return tables


def options(words: Words) -> Words:
    """The words of a ``lightning`` command line: files become ``--config``."""
    return [word if word.startswith("--") else f"--config={word}" for word in words]
