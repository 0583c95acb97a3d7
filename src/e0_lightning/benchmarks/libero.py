"""`e0 benchmark libero`: build, reset, step and render every LIBERO task."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from e0_lightning.data.formats.libero import CAMERAS, CONTROL_MODE
from e0_lightning.envs.libero import NO_OP, PARTS, LiberoEnvironment, versions
from e0_lightning.envs.libero_assets import Assets, find_assets
from e0_lightning.envs.libero_tasks import SUITES, tasks
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.types import PolicySpec, ViewSize

IMAGE_SIZE = 128

SPEC = PolicySpec(
    views=dict.fromkeys(CAMERAS, ViewSize(IMAGE_SIZE, IMAGE_SIZE)),
    state=PARTS,
    action_dim=7,
    control_mode=CONTROL_MODE,
    horizon=1,
)

NUM_STEPS = 20
"""Timed environment steps."""


class Timing(NamedTuple):
    """Times of a task in seconds."""

    task: str
    build: float = 0.0
    reset: float = 0.0
    """To the second initial state, with settling, without rendering."""
    step: float = 0.0
    render: float = 0.0
    """Of both cameras."""
    error: str = ""
    """Error message, empty if the task works."""


def benchmark(suites: list[str] | None = None) -> None:
    """Time every task of LIBERO suites and print a table.

    Args:
        suites: Names of suites; None for all.

    Raises:
        RuntimeError: If a task fails.
    """
    assets, backend = find_assets(), offscreen()
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"assets {assets.source}, rendered with {backend}; {libraries}\n")
    print("| task | build, s | reset, s | step, ms | render, ms | error |")
    print("| --- | --- | --- | --- | --- | --- |")
    failed = []
    for task in [task for suite in suites or SUITES for task in tasks(suite)]:
        timing = time_task(task, assets, backend)
        if timing.error:
            failed.append(task)
        print(
            f"| {task} | {timing.build:.1f} | {timing.reset:.2f} | {timing.step * 1e3:.0f} "
            f"| {timing.render * 1e3:.0f} | {timing.error} |",
            flush=True,
        )
    if failed:
        raise RuntimeError(f"{len(failed)} tasks failed: {', '.join(failed)}.")


def time_task(task: str, assets: Assets, backend: str) -> Timing:
    """Build a task, reset it twice, execute some steps, and check the rendered images."""
    try:
        start = time.perf_counter()
        environment = LiberoEnvironment(task, SPEC, backend, assets.path)
        built = time.perf_counter()
        try:
            environment.reset_to_initial_state(0)
            first_reset = time.perf_counter()
            environment.reset_to_initial_state(1)
            second_reset = time.perf_counter()
            actions = np.array([NO_OP] * NUM_STEPS, dtype=np.float32)
            environment.run(actions, last=True, on_frame=None)
            stepped = time.perf_counter()
            images = {view: environment.render(view, IMAGE_SIZE, IMAGE_SIZE) for view in CAMERAS}
            rendered = time.perf_counter()
        finally:
            environment.close()
    except Exception as error:  # the other tasks are still to be timed
        return Timing(task, error=f"{type(error).__name__}: {error}")
    blank = [view for view, image in images.items() if image.std() < 1]
    return Timing(
        task,
        built - start,
        second_reset - first_reset,
        (stepped - second_reset) / NUM_STEPS,
        rendered - stepped,
        f"the image of {blank[0]} is blank" if blank else "",
    )
