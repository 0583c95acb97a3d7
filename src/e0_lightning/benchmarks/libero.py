"""Build, reset, step and draw every LIBERO task: `make check-libero`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from e0_lightning.data.formats.libero import CAMERAS, CONTROL_MODE
from e0_lightning.envs.libero import (
    PARTS,
    STAY,
    SUITES,
    LiberoEnvironment,
    tasks,
    versions,
)
from e0_lightning.envs.libero_assets import Assets, find_assets
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.types import PolicySpec

SPEC = PolicySpec(
    views=dict.fromkeys(CAMERAS, 128),
    state=PARTS,
    action_dim=7,
    control_mode=CONTROL_MODE,
    horizon=1,
)

STEPS = 20
"""Steps that are timed."""


class Timing(NamedTuple):
    """What a task costs, in seconds; `error` says what went wrong, if anything did."""

    task: str
    build: float = 0.0
    reset: float = 0.0
    """Of the second initial state, settling included, nothing drawn."""
    step: float = 0.0
    draw: float = 0.0
    """Of both cameras."""
    error: str = ""


def check(suites: Sequence[str] = SUITES) -> int:
    """Try every task of the suites and print a table of its times.

    Returns:
        How many failed.
    """
    assets, backend = find_assets(), offscreen()
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"assets {assets.origin}, drawn with {backend}; {found}\n")
    print(
        "| task | build s | reset s | step ms | draw ms | |\n| --- | --- | --- | --- | --- | --- |"
    )
    timings = []
    for task in [task for suite in suites for task in tasks(suite)]:
        timing = time_task(task, assets, backend)
        timings.append(timing)
        print(
            f"| {task} | {timing.build:.1f} | {timing.reset:.2f} | {timing.step * 1e3:.0f} "
            f"| {timing.draw * 1e3:.0f} | {timing.error} |",
            flush=True,
        )
    return sum(bool(timing.error) for timing in timings)


def time_task(task: str, assets: Assets, backend: str) -> Timing:
    """Build a task, start it twice, take some steps, and look at what is drawn."""
    try:
        start = time.perf_counter()
        environment = LiberoEnvironment(task, SPEC, backend, assets.path)
        built = time.perf_counter()
        try:
            environment.begin(0)
            again = time.perf_counter()
            environment.begin(1)
            reset = time.perf_counter()
            environment.run(np.array([STAY] * STEPS, dtype=np.float32), last=True, on_frame=None)
            stepped = time.perf_counter()
            images = [environment.draw(view, 128) for view in CAMERAS]
            drawn = time.perf_counter()
        finally:
            environment.close()
    except Exception as error:  # one task's trouble must not hide the others'
        return Timing(task, error=f"{type(error).__name__}: {error}")
    blank = [name for name, image in zip(CAMERAS, images, strict=True) if image.std() < 1]
    return Timing(
        task,
        built - start,
        reset - again,
        (stepped - reset) / STEPS,
        drawn - stepped,
        f"{blank[0]} shows nothing" if blank else "",
    )


if __name__ == "__main__":
    sys.exit(1 if check(sys.argv[1:] or SUITES) else 0)
