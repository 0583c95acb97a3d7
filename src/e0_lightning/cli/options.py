"""Command line arguments as options and values."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Option(NamedTuple):
    """One option of a command line, or a word that belongs to none.

    Args:
        name: With its dashes, such as ``--trainer.max_steps``; empty for a positional word.
        value: What follows it; None for an option without a value.
    """

    name: str
    value: str | None

    @property
    def word(self) -> str:
        """The option as one word of a command line."""
        if not self.name:
            return self.value or ""
        return self.name if self.value is None else f"{self.name}={self.value}"


def parse_options(argv: Sequence[str]) -> list[Option]:
    """Split argv into options; ``--name value`` and ``--name=value`` are the same."""
    parsed: list[Option] = []
    remaining = [*argv]
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.partition("=")
        if not _is_option(word):
            parsed.append(Option("", word))
        elif equals:
            parsed.append(Option(name, value))
        elif remaining and not _is_option(remaining[0]):
            parsed.append(Option(name, remaining.pop(0)))
        else:
            parsed.append(Option(name, None))
    return [Option("--config", o.value) if o.name == "-c" else o for o in parsed]


def take_flag(argv: Sequence[str], flag: str) -> tuple[list[str], bool]:
    """The arguments without a flag such as ``--debug``, and whether it was among them."""
    return [word for word in argv if word != flag], flag in argv


def import_from_working_directory() -> None:
    """Make modules of the working directory importable, as ``python -m`` does.

    It comes last in the search path, so that it hides no installed package.
    """
    sys.path.append(os.getcwd())


def _is_option(word: str) -> bool:
    return word.startswith("--") or word == "-c" or word == "-h"
