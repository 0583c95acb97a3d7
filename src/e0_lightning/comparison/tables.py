"""Tables of variants in YAML: each variant is a list of config files and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e0_lightning.comparison.experiment_files import find_experiment

Overrides = list[str]
"""Config files and options of ``lightning``, applied after those of the benchmark; options start
with two dashes."""


@dataclass(frozen=True)
class Table:
    """Variants of one benchmark, compared with the first of them.

    Args:
        title: Heading in the report.
        training_variants: Name to overrides of what is trained, the baseline first.
        inference_variants: Name to overrides of what is evaluated with the weights of the baseline.
    """

    title: str
    training_variants: dict[str, Overrides]
    inference_variants: dict[str, Overrides] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """Name of the variant that all others are compared with."""
        return next(iter(self.training_variants))

    @property
    def names(self) -> list[str]:
        """Every variant, in order."""
        return [*self.training_variants, *self.inference_variants]


def read_table(path: str | Path) -> Table:
    """Read a table from YAML.

    Args:
        path: A file, or the name of a table that ships with the package.

    Raises:
        ValueError: If it does not exist, has other content, or a variant name that cannot be a
            folder name.
    """
    import yaml

    path = find_experiment(path)
    try:
        content: Any = yaml.safe_load(path.read_text())
        table = Table(**content)
        overrides = [*table.training_variants.values(), *table.inference_variants.values()]
    except (OSError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path}: expected a table with `title`, `training_variants` and optionally "
            "`inference_variants`, the latter two with a list of config files and --options under "
            f"each name ({error})."
        ) from error
    if not table.training_variants or not all(isinstance(each, list) for each in overrides):
        raise ValueError(
            f"{path}: expected at least one entry in `training_variants` and a list under every "
            "name."
        )
    if invalid := [name for name in table.names if "/" in name or name.startswith(".")]:
        raise ValueError(f"{path}: expected names that can be folder names, got {invalid}.")
    return table


def read_tables(paths: Sequence[str | Path]) -> list[Table]:
    """Read tables that may share variants.

    Raises:
        ValueError: If two different variants have the same name.
    """
    tables = [read_table(path) for path in paths]
    known: dict[str, tuple[Overrides, str | None]] = {}
    for table in tables:
        trained = {name: (options, None) for name, options in table.training_variants.items()}
        inferred = {
            name: (options, table.baseline) for name, options in table.inference_variants.items()
        }
        for name, variant in {**trained, **inferred}.items():
            if known.setdefault(name, variant) != variant:
                raise ValueError(
                    f"{name}: expected one variant of this name, got {known[name]} and {variant}. "
                    "Rename one of them."
                )
    return tables


def to_options(overrides: Overrides) -> list[str]:
    """Convert to options of a ``lightning`` command line: files become ``--config``.

    Raises:
        ValueError: If a file does not exist.
    """
    return [
        word if word.startswith("--") else f"--config={find_experiment(word)}" for word in overrides
    ]
