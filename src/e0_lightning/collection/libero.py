"""LIBERO demonstrations from a scripted expert: `e0 collect libero`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from e0_lightning.collection.attempts import collect_episodes
from e0_lightning.collection.libero_episode_store import LiberoEpisodeStore
from e0_lightning.collection.libero_recorder import work
from e0_lightning.envs.libero_assets import find_assets
from e0_lightning.envs.libero_tasks import tasks as tasks_of
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.envs.worker_process import WorkerProcess
from e0_lightning.types import RenderQuality

MAX_CONSECUTIVE_FAILURES = 10
"""Failed seeds in a row after which a task counts as one that the expert cannot solve."""


class TaskSummary(NamedTuple):
    """Outcome of one task."""

    task: str
    episodes: int
    failed: int
    reason: str
    """Why there are fewer episodes than requested, else empty."""


def collect(
    suite: str,
    out: Path = Path("data/libero"),
    tasks: list[int] | None = None,
    num_episodes: int = 50,
    image_size: int = 128,
    render_quality: RenderQuality = "default",
    workers: int | None = None,
) -> list[Path]:
    """Collect successful demonstrations of LIBERO tasks, in the format of its official files.

    A scripted expert with access to the simulator state picks, places, pushes, opens, closes and
    turns what the goal of a task names, from initial states sampled by seed; the initial states of
    the evaluation are not used. Tasks with another goal are named and skipped; `e0 benchmark
    libero-expert` prints how often it succeeds. Finished episodes lie in ``<file>.parts`` and
    survive an interruption of any kind: run the same command again to resume.

    Args:
        suite: Suite of ten tasks, such as libero_object.
        out: Folder to write ``<suite>/<task>_demo.hdf5`` in.
        tasks: Indices of the tasks in the suite, from 0; None for all ten.
        num_episodes: Demonstrations of each task.
        image_size: Image side in pixels.
        render_quality: ``fast`` renders a tenth of the triangles, without reflections and
            multisampling, in a fraction of the time; policies that are trained on such images are
            evaluated on such images.
        workers: Worker processes; None for one per core.

    Returns:
        The files of the tasks with all their demonstrations.

    Raises:
        ValueError: If there is no such suite or task, the expert can solve none of them, or
            existing demonstrations have images of another size or render quality.
        ModuleNotFoundError: If LIBERO is not installed.
        RuntimeError: If assets or an offscreen renderer are missing, or a worker dies.
    """
    names = tasks_of(suite)
    if num_episodes < 1 or image_size < 1:
        raise ValueError(
            f"num_episodes, image_size: expected at least 1, got {num_episodes} and {image_size}."
        )
    if tasks is not None and not set(tasks) <= set(range(len(names))):
        raise ValueError(f"tasks: expected indices from 0 to {len(names) - 1}, got {tasks}.")
    chosen = names if tasks is None else [names[index] for index in tasks]
    assets, backend = find_assets(), offscreen()
    folder = Path(out) / suite
    folder.mkdir(parents=True, exist_ok=True)
    summaries = []
    with ExitStack() as stack:
        stores = {
            task: stack.enter_context(
                closing(LiberoEpisodeStore(_file(folder, task), image_size, render_quality))
            )
            for task in chosen
        }
        size = min(workers or len(os.sched_getaffinity(0)), num_episodes)
        processes = [
            WorkerProcess(work, image_size, render_quality, backend, assets.path)
            for _ in range(size)
        ]
        for process in processes:
            stack.callback(process.end)
        try:
            for task, store in stores.items():
                reason = collect_episodes(
                    store, processes, task, num_episodes, MAX_CONSECUTIVE_FAILURES
                )
                summaries.append(_finish(store, task, reason))
        except KeyboardInterrupt:
            sys.exit(
                f"Interrupted; finished episodes are kept in {folder}: run the same command again "
                "to resume."
            )
    return _report(folder, summaries)


def _file(folder: Path, task: str) -> Path:
    return folder / f"{task.split('/')[1]}_demo.hdf5"


def _finish(store: LiberoEpisodeStore, task: str, reason: str) -> TaskSummary:
    """Publish the episodes of a task."""
    summary = TaskSummary(task, len(store.succeeded()), len(store.failed()), reason)
    if summary.episodes:
        store.publish()
    if not reason:
        store.clear()
    return summary


def _report(folder: Path, summaries: list[TaskSummary]) -> list[Path]:
    """Print a table, and return the files of the tasks that are complete."""
    print("| task | demonstrations | failed attempts | |\n| --- | --- | --- | --- |")
    for summary in summaries:
        print(f"| {' | '.join(map(str, summary))} |")
    complete = [summary.task for summary in summaries if not summary.reason]
    if not complete:
        raise ValueError(
            "The scripted expert can solve none of these tasks. Choose others, or use LIBERO's "
            "official demonstrations."
        )
    return [_file(folder, task) for task in complete]
