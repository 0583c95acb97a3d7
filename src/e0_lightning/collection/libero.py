"""LIBERO demonstrations from a scripted expert: `e0 collect libero`."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from e0_lightning.collection.libero_episode_store import LiberoEpisodeStore
from e0_lightning.collection.libero_recorder import work
from e0_lightning.envs.libero import tasks as tasks_of
from e0_lightning.envs.libero_assets import find_assets
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.envs.worker_process import WorkerProcess

MAX_CONSECUTIVE_FAILURES = 10
"""Failures in a row after which a task counts as one that the expert cannot do."""


class TaskSummary(NamedTuple):
    """What came of one task."""

    task: str
    done: int
    failed: int
    trouble: str
    """Why there are fewer than wanted, empty if there are not."""


def collect(
    suite: str,
    out: Path = Path("data/libero"),
    tasks: list[int] | None = None,
    episodes: int = 50,
    image_size: int = 128,
    workers: int | None = None,
) -> list[Path]:
    """Collect successful demonstrations of LIBERO tasks, in the layout of its official files.

    A scripted expert that knows where everything is picks one object and places it, from
    placements drawn at random; it never sees the initial states that policies are tested on.
    Tasks that want more than that are named and left out. Demonstrations finished so far lie in
    ``<file>.parts`` and survive an interruption of any kind: run the same command again to go on.

    Args:
        suite: Suite of ten tasks, such as libero_object.
        out: Folder to write ``<suite>/<task>_demo.hdf5`` in.
        tasks: Places of the tasks in the suite, from 0; all ten if None.
        episodes: Demonstrations wanted of each task.
        image_size: Side of the images in pixels.
        workers: Processes to work in; None for one per core.

    Returns:
        The files that hold as many demonstrations as wanted.

    Raises:
        ValueError: If there is no such suite or task, or the expert can do none of them, or what
            was collected before has images of another size.
        ModuleNotFoundError: If LIBERO is not installed.
        RuntimeError: If there are no assets or nothing to render with, or a worker dies.
    """
    names = tasks_of(suite)
    if episodes < 1 or image_size < 1:
        raise ValueError(f"episodes {episodes}, image_size {image_size}: at least 1 is wanted")
    if tasks is not None and not set(tasks) <= set(range(len(names))):
        raise ValueError(f"tasks {tasks}: the tasks of a suite are numbered from 0 to 9")
    chosen = names if tasks is None else [names[place] for place in tasks]
    assets, backend = find_assets(), offscreen()
    folder = Path(out) / suite
    tallies: list[TaskSummary] = []
    with _alone(folder), ExitStack() as stack:
        wanted = {
            task: LiberoEpisodeStore(folder / f"{task.split('/')[1]}_demo.hdf5") for task in chosen
        }
        for parts in wanted.values():
            parts.require_size(image_size)
        size = min(workers or len(os.sched_getaffinity(0)), episodes)
        team = [WorkerProcess(work, image_size, backend, assets.path, folder) for _ in range(size)]
        for worker in team:
            stack.callback(worker.end)
        try:
            for task, parts in wanted.items():
                tallies.append(_fill(parts, task, episodes, team))
        except KeyboardInterrupt:
            sys.exit(f"interrupted; what is finished is kept in {folder}: run the command again")
    return _conclude(folder, tallies)


def _fill(
    parts: LiberoEpisodeStore, task: str, episodes: int, team: list[WorkerProcess]
) -> TaskSummary:
    """Have workers demonstrate seeds of a task until there are enough successes."""
    from tqdm import tqdm

    done, row, trouble = len(parts.succeeded()), 0, ""
    seeds = parts.untried()
    free = list(team)
    busy: dict[Any, tuple[WorkerProcess, int]] = {}
    with tqdm(total=episodes, initial=done, unit="demo", desc=task.split("/")[1]) as bar:
        while busy or (done < episodes and not trouble):
            # Never more seeds under way than are still missing: all of them may succeed.
            while free and done + len(busy) < episodes and not trouble:
                worker, seed = free.pop(), next(seeds)
                worker.connection.send((task, seed))
                busy[worker.connection] = worker, seed
            for connection in wait(list(busy)):
                worker, seed = busy.pop(connection)
                free.append(worker)
                answer = _answer(worker, seed)
                if isinstance(answer, ValueError):
                    trouble = str(answer)
                    continue
                parts.add(seed, *answer)
                done, row = (done, row + 1) if answer[1] else (done + 1, 0)
                bar.update(not answer[1])
                if row == MAX_CONSECUTIVE_FAILURES:
                    trouble = f"{row} attempts in a row failed, the last because {answer[1]}"
    failed = len(parts.failed())
    if parts.succeeded():
        parts.publish()
    if done >= episodes:
        parts.clear()
    return TaskSummary(task, done, failed, trouble)


def _answer(worker: WorkerProcess, seed: int) -> Any:
    """What a worker has to say: a file and why it failed, or that it cannot do the task."""
    try:
        answer = worker.connection.recv()
    except (EOFError, ConnectionResetError) as error:
        worker.process.join()
        raise RuntimeError(
            f"the process that demonstrated seed {seed} died with exit status "
            f"{worker.process.exitcode} (out of memory?); every finished demonstration is kept: "
            "run the same command again, perhaps with fewer workers"
        ) from error
    if isinstance(answer, Exception) and not isinstance(answer, ValueError):
        raise answer
    return answer


def _conclude(folder: Path, tallies: list[TaskSummary]) -> list[Path]:
    """Print what came of it."""
    print("| task | demos | failed attempts | |\n| --- | --- | --- | --- |")
    for tally in tallies:
        print(f"| {tally.task} | {tally.done} | {tally.failed} | {tally.trouble} |")
    whole = [tally for tally in tallies if not tally.trouble]
    if not whole:
        raise ValueError(
            "the scripted expert can do none of these tasks; choose others, or take LIBERO's own "
            "demonstrations"
        )
    return [folder / f"{tally.task.split('/')[1]}_demo.hdf5" for tally in whole]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other collections out of a folder, and leave nothing unfinished in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{folder}: another collection is writing to it; wait for it"
            ) from error
        _sweep(folder)
        try:
            yield
        finally:
            _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what workers had begun: they are ended, not asked to go."""
    for left in folder.glob("unfinished_*"):
        shutil.rmtree(left)
