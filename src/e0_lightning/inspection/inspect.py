"""`e0 inspect`: what demonstration files hold, and what of it would hurt training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from e0_lightning.data.formats.base import DemoReader
from e0_lightning.data.formats.detect import UnknownFormat
from e0_lightning.data.formats.hdf5 import open_hdf5
from e0_lightning.data.sources import DemoSource
from e0_lightning.inspection.demo_set import DemoSet, read_sources
from e0_lightning.inspection.description import Fact, describe
from e0_lightning.inspection.hazards import find_hazards
from e0_lightning.inspection.html_report import write_report
from e0_lightning.inspection.key_map_proposal import propose_key_map
from e0_lightning.inspection.statistics import action_table, measure, state_table
from e0_lightning.inspection.tree import describe_tree

MAX_PROBLEMS = 10
"""Problems listed per set of files."""


def inspect(
    paths: list[str],
    reader: type[DemoReader] | None = None,
    key_map: str | None = None,
    verify: bool = False,
    out: Path | None = None,
) -> None:
    """Print what demonstration files hold, and what of it would hurt training.

    Files of one format, task and spec are described together. For files of an unknown layout, the
    tree is printed, and a key map is proposed that reads them.

    Args:
        paths: Files of demonstrations, glob patterns, or URLs that fsspec reads.
        reader: Class that reads them, such as ``my_module.MyReader``; detected if None.
        key_map: Name or YAML file of their key map; detected if None.
        verify: Read every image too, which checks all checksums of the files.
        out: HTML page to write, with pictures, films and plots.

    Raises:
        SystemExit: With status 1, after all files, if one of them has a problem.
    """
    inventory = read_sources([DemoSource(p, reader=reader, key_map=key_map) for p in paths])
    has_problem = bool(inventory.errors)
    for demo_set in inventory.sets:
        print(demo_set.title)
        for line in _lines(demo_set, verify):
            print(f"  {line}")
        has_problem |= bool(demo_set.problems)
    for path, error in inventory.errors.items():
        print(path)
        print(f"  {_line(Fact('problem', str(error)))}")
        if isinstance(error, UnknownFormat):
            _print_unknown(path)
    if out is not None and inventory.sets:
        write_report(inventory.sets, out)
        print(f"report: {out}")
    if has_problem:
        sys.exit(1)


def _lines(demo_set: DemoSet, verify: bool) -> Iterator[str]:
    if verify:
        verified = demo_set.verify_images()
    yield from map(_line, describe(demo_set))
    if verify:
        yield _line(Fact("verified", verified))
    yield from action_table(measure(demo_set.actions, demo_set.action_names))
    yield from state_table(measure(demo_set.states, demo_set.state_names))
    yield from (_line(Fact("hazard", text)) for text in find_hazards(demo_set))
    problems = demo_set.problems
    yield from (_line(Fact("problem", text)) for text in problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        yield _line(Fact("problem", f"… and {len(problems) - MAX_PROBLEMS} more"))


def _print_unknown(path: str) -> None:
    """Print the tree of a file and a key map for it."""
    with open_hdf5(path) as file:
        print(*(f"  {line}" for line in describe_tree(file)), sep="\n")
        print("\nA key map for it, to be saved as mine.yaml and used as --key_map mine.yaml:\n")
        print(propose_key_map(file))


def _line(fact: Fact) -> str:
    return f"{fact.name:<13} {fact.text}"
