"""ManiSkill demonstrations from its own motion planner: `e0 collect maniskill`."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import sys
from contextlib import ExitStack, closing
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from e0_lightning.collection.episode_store import EpisodeStore, Sidecar
from e0_lightning.collection.maniskill_planner import CollectionConfig, work
from e0_lightning.envs.libraries import require_libraries
from e0_lightning.envs.vulkan import backend
from e0_lightning.envs.worker_process import WorkerProcess

MAX_CONSECUTIVE_FAILURES = 30
"""Seeds in a row that may fail before a task counts as one that the planner cannot do."""


def collect(
    task: str,
    episodes: int,
    out: Path,
    control_mode: str = "pd_joint_pos",
    image_size: int | None = None,
    workers: int | None = None,
) -> Path:
    """Collect successful demonstrations of a ManiSkill task, with images.

    ManiSkill's motion planner solves the task on the seeds 0, 1, 2, ... and its own replay
    records images; seeds that fail are skipped. Episodes finished so far lie in ``<out>.parts``
    and survive an interruption of any kind: run the same command again to go on. `out` and its
    ``.json`` appear when all are done. With more episodes than `out` holds it is extended.

    Args:
        task: Name of the task, such as PushCube-v1.
        episodes: Demonstrations wanted.
        out: HDF5 file to write; its sidecar gets the same name with .json.
        control_mode: Controller that the recorded actions are meant for, such as pd_ee_delta_pose.
        image_size: Side of the images in pixels; None for the task's own, usually 128.
        workers: Processes to work in; None for one per core.

    Returns:
        The file written.

    Raises:
        ValueError: If the task has no planner, the robot no such control mode, `out` holds
            something else, or nothing succeeds.
        ModuleNotFoundError: If ManiSkill is not installed.
        RuntimeError: If NumPy is too new for the planner, there is nothing to render with, or a
            worker process dies.
    """
    out = Path(out)
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; ask for at least 1")
    _require_planner(task)
    recipe = CollectionConfig(task, control_mode, image_size, backend())
    with closing(EpisodeStore(out)) as parts:
        tried = parts.finished()
        for path, sidecar in tried.values():
            _require_same(recipe, path, sidecar)
        done = _successes(tried)
        if done >= episodes and done == parts.published:
            print(f"{out} already holds {done} episodes of {task}: nothing to do")
        else:
            if done < episodes:
                try:
                    _fill(parts, recipe, episodes, workers or len(os.sched_getaffinity(0)))
                except KeyboardInterrupt:
                    sys.exit(
                        f"interrupted; {_successes(parts.finished())} finished episodes are kept "
                        f"in {parts.folder}: run the same command again to go on"
                    )
            print(f"{out} holds {parts.publish()} episodes of {task}")
        parts.clear()
    return out


def _fill(parts: EpisodeStore, recipe: CollectionConfig, episodes: int, workers: int) -> None:
    """Have worker processes demonstrate seeds until there are enough successes."""
    from tqdm import tqdm

    done, failed = _successes(parts.finished()), 0
    seeds = parts.untried()
    with (
        tqdm(total=episodes, initial=done, unit="episode", desc=recipe.task) as bar,
        ExitStack() as stack,
    ):
        free = [
            WorkerProcess(work, recipe, parts.folder) for _ in range(min(workers, episodes - done))
        ]
        for worker in free:
            stack.callback(worker.end)
        busy: dict[Any, tuple[WorkerProcess, int]] = {}
        while done < episodes:
            # Never more seeds under way than are still missing: all of them may succeed.
            while free and done + len(busy) < episodes:
                worker, seed = free.pop(), next(seeds)
                worker.connection.send(seed)
                busy[worker.connection] = worker, seed
            for connection in wait(list(busy)):
                worker, seed = busy.pop(connection)
                success = _receive(worker, parts, seed)
                free.append(worker)
                done += success
                failed = 0 if success else failed + 1
                bar.update(int(success))
                if failed == MAX_CONSECUTIVE_FAILURES:
                    raise ValueError(
                        f"{recipe.task} in {recipe.control_mode}: {failed} seeds in a row failed, "
                        f"the last one because {_reason(parts, seed)}"
                    )


def _receive(worker: WorkerProcess, parts: EpisodeStore, seed: int) -> bool:
    """File away what a worker has to say; whether it is a success."""
    try:
        answer = worker.connection.recv()
    except (EOFError, ConnectionResetError) as error:
        worker.process.join()
        raise RuntimeError(
            f"the process that demonstrated seed {seed} died with exit status "
            f"{worker.process.exitcode} (out of memory?); every finished episode is kept: run the "
            "same command again, perhaps with fewer workers"
        ) from error
    if isinstance(answer, Exception):
        raise answer
    source, sidecar = answer
    parts.add(seed, source, sidecar)
    return bool(sidecar["episodes"])


def _successes(tried: dict[int, tuple[Path, Sidecar]]) -> int:
    return sum(len(sidecar["episodes"]) for _, sidecar in tried.values())


def _reason(parts: EpisodeStore, seed: int) -> str:
    return str(parts.finished()[seed][1]["failure"])


def _require_planner(task: str) -> None:
    """Refuse to start where ManiSkill's planner would fail in every process."""
    try:
        planner, numpy = (importlib.metadata.version(name) for name in ("mplib", "numpy"))
        importlib.metadata.version("mani_skill")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"collecting needs ManiSkill and its planner, and {error.name} is not installed: "
            "pip install 'e0-lightning[maniskill]'"
        ) from error
    if planner.startswith("0.1.") and int(numpy.split(".")[0]) >= 2:
        raise RuntimeError(
            f"ManiSkill's motion planner (mplib {planner}) crashes with NumPy {numpy}: "
            "pip install 'numpy<2'"
        )
    require_libraries()
    from mani_skill.examples.motionplanning.panda.run import MP_SOLUTIONS

    if task not in MP_SOLUTIONS:
        close = difflib.get_close_matches(task, MP_SOLUTIONS, n=1, cutoff=0.5)
        raise ValueError(
            f"ManiSkill has no motion planner for task {task!r}"
            + (f"; did you mean {close[0]}?" if close else "")
            + f"\nIt has one for: {', '.join(sorted(MP_SOLUTIONS))}"
        )


def _require_same(recipe: CollectionConfig, path: Path, sidecar: Sidecar) -> None:
    """Refuse to mix demonstrations of different tasks, controllers or image sizes in one file."""
    info = sidecar["env_info"]
    kwargs = info["env_kwargs"]
    found: dict[str, Any] = {"task": info["env_id"]}
    wanted: dict[str, Any] = {"task": recipe.task}
    if sidecar["episodes"]:  # a failed one tells of the planner's environment only
        cameras = kwargs.get("sensor_configs") or {}
        found |= {"control mode": kwargs["control_mode"], "image size": cameras.get("width")}
        wanted |= {"control mode": recipe.control_mode, "image size": recipe.image_size}
    for name in wanted:
        if found[name] != wanted[name]:
            raise ValueError(
                f"{path} holds demonstrations with {name} {found[name]}, and {wanted[name]} is "
                "asked for; give out another name, or move the old file (and its .parts) away"
            )
