"""`e0 inspect`: what demonstration files hold, and their problems."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from e0_lightning.data.formats.base import DemoInfo, DemoReader, Floats
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.sources import expand
from e0_lightning.data.split import read_split

MAX_PROBLEMS = 10
"""Problems listed per file."""

HARDLY_MOVES = 1e-4
"""Range between the extremes, in robot units, below which a dimension is marked."""


def inspect(
    paths: list[str],
    reader: type[DemoReader] | None = None,
    key_map: str | None = None,
    verify: bool = False,
) -> None:
    """Print what each file holds: task, demonstrations, cameras, state, actions, problems.

    Args:
        paths: Files of demonstrations, glob patterns, or URLs that fsspec reads.
        reader: Class that reads them, such as ``my_module.MyReader``; detected if None.
        key_map: Name or YAML file of their key map; detected if None.
        verify: Read every image too, which checks all checksums of the file.

    Raises:
        SystemExit: With status 1, after all files, if one of them has a problem.
    """
    problems = 0
    is_given = reader is not None or key_map is not None
    open_file = partial(open_demos, reader=reader, key_map=key_map)
    for path in [match for pattern in paths for match in expand(pattern, is_given)]:
        print(path)
        for line in _describe(path, open_file, verify):
            problems += line.startswith("problem")
            print(f"  {line}")
    if problems:
        sys.exit(1)


def _describe(path: str, open_file: Callable[[str], DemoReader], verify: bool) -> Iterator[str]:
    try:
        reader = open_file(path)
        demos = reader.demos()
        yield from _headers(reader, demos)
    except ValueError as error:
        yield f"problem       {error}"
        return
    problems: list[str] = []
    actions = _read(reader.actions, demos, problems)
    states = _read(reader.states, demos, problems)
    for demo in demos:
        for dataset in set(reader.image_dataset(demo.name).values()):
            try:
                reader.check_chunks(dataset)
            except ValueError as error:
                problems.append(str(error))
    if verify:
        yield _verify(reader, demos, problems)
    yield from _statistics("actions", actions, [str(d) for d in range(actions.shape[1])])
    parts = reader.spec.state.items()
    yield from _statistics("state", states, [f"{part}[{d}]" for part, n in parts for d in range(n)])
    reader.close()
    yield from (f"problem       {problem}" for problem in problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        yield f"problem       … and {len(problems) - MAX_PROBLEMS} more"


def _verify(reader: DemoReader, demos: list[DemoInfo], problems: list[str]) -> str:
    """Read all images, and say how many data sets of images have checksums."""
    datasets, protected = 0, 0
    for demo in demos:
        for start in range(0, demo.steps, demo.block_length):
            try:
                reader.images(demo.name, start, min(start + demo.block_length, demo.steps))
            except ValueError as error:
                problems.append(str(error))
        found = set(reader.image_dataset(demo.name).values())
        datasets, protected = datasets + len(found), protected + sum(d.fletcher32 for d in found)
    return f"verified      every image is read; {protected} of {datasets} image sets have checksums"


def _headers(reader: DemoReader, demos: list[DemoInfo]) -> Iterator[str]:
    spec, failed = reader.spec, reader.failed()
    steps = np.array([demo.steps for demo in demos])
    try:
        sentences = Counter(reader.instruction(demo.name) for demo in demos)
        instruction = "; ".join(
            f"{sentence!r}" + f" ({count} demonstrations)" * (len(sentences) > 1)
            for sentence, count in sentences.items()
        )
    except ValueError:
        instruction = "none: give one with the demonstrations"
    names = f": {', '.join(failed[:10])}{', …' * (len(failed) > 10)}" if failed else ""
    yield f"format        {reader.format}"
    yield f"task          {reader.task}"
    yield f"instruction   {instruction}"
    yield f"control mode  {spec.control_mode or 'unknown'}"
    yield f"rate          {f'{reader.rate:g} Hz' if reader.rate else 'unknown'}"
    yield f"demos         {len(demos)}, without {len(failed)} failed ones{names}"
    yield (
        f"steps         {steps.sum()} in all; {steps.min()} / {steps.mean():.1f} / {steps.max()} "
        "per demonstration (min / mean / max)"
    )
    split = Counter(read_split(reader, demos).values())
    if split["valid"]:
        yield f"split         {split['train']} to train on, {split['valid']} held out (mask/valid)"
    datasets = [reader.image_dataset(demo.name) for demo in demos]
    for view, size in spec.views.items():
        common = Counter(each[view].chunks for each in datasets if view in each).most_common(3)
        chunks = ", ".join(
            ("contiguous" if chunk is None else " × ".join(map(str, chunk)))
            + f" ({count} demonstrations)"
            for chunk, count in common
        )
        known = "known" if view in reader.intrinsics(demos[0].name) else "unknown"
        yield f"view          {view}: {size}, intrinsics {known}, chunks {chunks or 'unknown'}"
    if not spec.views:
        yield "view          none: images are needed for training (ManiSkill: replay to RGB)"
    for part, dims in spec.state.items():
        yield f"state         {part}: {dims}"


def _read(
    read: Callable[[str, int, int], Floats], demos: list[DemoInfo], problems: list[str]
) -> Floats:
    """Concatenate the values of all demonstrations that can be read, ``(T, …)``."""
    values = []
    for demo in demos:
        try:
            values.append(read(demo.name, 0, demo.steps))
        except ValueError as error:
            problems.append(str(error))
    return np.concatenate(values) if values else np.zeros((0, 0), np.float32)


def _statistics(kind: str, values: Floats, names: list[str]) -> Iterator[str]:
    if values.size == 0:
        return
    width = max(map(len, names)) + 2
    yield f"{kind + ' ':<{width + 2}} {'min':>10} {'q01':>10} {'q99':>10} {'max':>10}"
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    columns = (values.min(axis=0), low, high, values.max(axis=0))
    for name, *row in zip(names, *columns, strict=True):
        extent = row[-1] - row[0]
        note = "  constant" if extent == 0 else "  hardly moves" * bool(extent < HARDLY_MOVES)
        yield f"  {name:<{width}} " + " ".join(f"{value:10.4f}" for value in row) + note
