"""`e0 inspect`: what demonstration files hold, and what is wrong with them."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np

from e0_lightning.data.datamodule import expand
from e0_lightning.data.formats.base import DemoReader, Floats, open_demos


def inspect(paths: list[str]) -> None:
    """Print what each file holds: task, episodes, cameras, state, range of the actions, problems.

    Args:
        paths: Files of demonstrations, glob patterns, or URLs that fsspec knows.

    Raises:
        SystemExit: With status 1, after all files, if one of them has a problem.
    """
    problems = 0
    for path in [found for pattern in paths for found in expand(pattern)]:
        print(path)
        try:
            file = open_demos(path)
            for line in [*_headers(file), *_actions(file)]:
                print(f"  {line}")
            file.close()
        except ValueError as error:
            problems += 1
            print(f"  problem       {error}")
    if problems:
        sys.exit(1)


def _headers(file: DemoReader) -> list[str]:
    spec, demos, failed = file.spec, file.demos(), file.failed()
    steps = np.array([demo.steps for demo in demos])
    try:
        sentences = Counter(file.instruction(demo.name) for demo in demos)
        instruction = "; ".join(repr(sentence) for sentence in sentences)
    except ValueError:
        instruction = "none: give one with the demos"
    lines = [
        f"format       {file.format}",
        f"task          {file.task}",
        f"instruction   {instruction}",
        f"control mode  {spec.control_mode}",
        f"episodes      {len(demos)}, and {len(failed)} failed ones left out"
        + (f": {', '.join(failed[:10])}{', …' * (len(failed) > 10)}" if failed else ""),
        f"steps         {steps.sum()} in all; {steps.min()} / {steps.mean():.1f} / {steps.max()} "
        "per episode (min / mean / max)",
    ]
    layouts = [file.stored(demo.name) for demo in demos]
    for view, side in spec.views.items():
        common = Counter(layout[view].chunks for layout in layouts).most_common(3)
        shown = ", ".join(
            ("contiguous" if chunk is None else " × ".join(map(str, chunk)))
            + f" ({count} episodes)"
            for chunk, count in common
        )
        known = "known" if view in file.intrinsics(demos[0].name) else "unknown"
        lines.append(f"view          {view}: {side} px, intrinsics {known}, chunks {shown}")
    if not spec.views:
        lines.append("view          none: replay the recording to RGB to train on images")
    for part, dims in spec.state.items():
        lines.append(f"state         {part}: {dims}")
    return lines


def _actions(file: DemoReader) -> list[str]:
    actions: Floats = np.concatenate(
        [file.actions(demo.name, 0, demo.steps) for demo in file.demos()]
    )
    low, high = np.quantile(actions, [0.01, 0.99], axis=0)
    lines = [f"actions       {'min':>10} {'q01':>10} {'q99':>10} {'max':>10}"]
    for d, values in enumerate(
        zip(actions.min(axis=0), low, high, actions.max(axis=0), strict=True)
    ):
        lines.append(f"  {d:<11} " + " ".join(f"{value:10.4f}" for value in values))
    return lines
