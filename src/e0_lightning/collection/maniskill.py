"""ManiSkill demonstrations from motion planning: `e0 collect maniskill`."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from e0_lightning.collection.attempts import Shard, collect_episodes
from e0_lightning.collection.maniskill_episode_store import ManiSkillEpisodeStore
from e0_lightning.collection.maniskill_planner import CollectionConfig, solutions, work
from e0_lightning.envs.base import require_opencv
from e0_lightning.envs.vulkan import backend
from e0_lightning.envs.worker_process import WorkerProcess
from e0_lightning.types import RenderQuality

MAX_CONSECUTIVE_FAILURES = 30
"""Failed seeds in a row after which a task counts as one that the planner cannot solve."""


def collect(
    task: str,
    num_episodes: int,
    out: Path,
    control_mode: str = "pd_joint_pos",
    images: bool = True,
    image_size: int | None = None,
    workers: int | None = None,
    shard: str = "1/1",
    depth: bool = False,
    render_quality: RenderQuality = "default",
) -> Path:
    """Collect successful demonstrations of a ManiSkill task.

    Motion planning solves the task on the seeds 0, 1, 2, ... and ManiSkill's own replay records
    observations; seeds that fail are skipped. Finished episodes lie in ``<out>.parts`` and
    survive an interruption of any kind: run the same command again to resume. `out` and its
    ``.json`` appear when all are done. A complete `out` is extended if `num_episodes` is larger.

    Args:
        task: Name of the task, such as PushCube-v1.
        num_episodes: Demonstrations in `out`.
        out: HDF5 file to write; its sidecar gets the same name with .json.
        control_mode: Controller that the recorded actions are meant for, such as pd_ee_delta_pose.
        images: Whether to record images; without them a demonstration takes a tenth of the time.
        image_size: Image side in pixels; None for the task's default, usually 128.
        workers: Worker processes; None for one per core.
        shard: ``2/4`` attempts every fourth seed, from the second on: machines with other shards
            and another `out` collect other demonstrations, which are trained on together by a
            pattern of their files.
        depth: Whether to record the depth of the images too, for viewpoints with parallax.
        render_quality: ``fast`` renders a tenth of the robot's triangles, in a fraction of the time
            on a CPU; the file says so, and a policy trained on it is evaluated on such images.

    Returns:
        The file written.

    Raises:
        ValueError: If the task has no planner, the robot no such control mode, `out` holds other
            demonstrations, there is no such shard, or nothing succeeds.
        ModuleNotFoundError: If ManiSkill is not installed.
        RuntimeError: If NumPy is too new for the planner, no renderer is found, or a worker dies.
    """
    out = Path(out)
    if num_episodes < 1:
        raise ValueError(f"num_episodes: expected at least 1, got {num_episodes}.")
    if image_size is not None and not images:
        raise ValueError(f"image_size: expected none without images, got {image_size}.")
    if depth and not images:
        raise ValueError("depth: expected false without images, got true.")
    part = Shard.parse(shard)
    check_planner(task)
    if render_quality != "default" and not images:
        raise ValueError(f"render_quality: expected default without images, got {render_quality}.")
    config = CollectionConfig(
        task, control_mode, images, image_size, backend(), depth, render_quality
    )
    store_config = (task, control_mode, image_size, images, depth, render_quality)
    with closing(ManiSkillEpisodeStore(out, *store_config)) as store:
        done = len(store.succeeded())
        if num_episodes <= done == len(store.published):
            print(f"{out} already holds {done} episodes of {task}: nothing to do.")
        else:
            size = workers or len(os.sched_getaffinity(0))
            _collect(store, config, num_episodes, size, part)
            print(f"{out} holds {store.publish()} episodes of {task}.")
        store.clear()
    return out


def _collect(
    store: ManiSkillEpisodeStore,
    config: CollectionConfig,
    num_episodes: int,
    workers: int,
    shard: Shard,
) -> None:
    """Start worker processes and collect what is missing."""
    missing = num_episodes - len(store.succeeded())
    with ExitStack() as stack:
        processes = [
            WorkerProcess(work, config, store.folder) for _ in range(min(workers, missing))
        ]
        for process in processes:
            stack.callback(process.end)
        try:
            reason = collect_episodes(
                store, processes, config.task, num_episodes, MAX_CONSECUTIVE_FAILURES, shard
            )
        except KeyboardInterrupt:
            sys.exit(
                f"Interrupted; {len(store.succeeded())} finished episodes are kept in "
                f"{store.folder}: run the same command again to resume."
            )
    if reason:
        raise ValueError(f"{config.task} in {config.control_mode}: {reason}")


def check_planner(task: str) -> None:
    """Refuse to start where ManiSkill's planner would fail in every process.

    Raises:
        ModuleNotFoundError: If ManiSkill or its planner is not installed.
        RuntimeError: If NumPy is too new for the planner.
        ValueError: If the planner has no solution of the task.
    """
    try:
        planner, numpy = (importlib.metadata.version(name) for name in ("mplib", "numpy"))
        importlib.metadata.version("mani_skill")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"Collecting needs ManiSkill and its planner, and {error.name} is not installed: "
            "pip install 'e0-lightning[maniskill]'"
        ) from error
    if planner.startswith("0.1.") and int(numpy.split(".")[0]) >= 2:
        raise RuntimeError(
            f"ManiSkill's motion planner (mplib {planner}) crashes with NumPy {numpy}: "
            "pip install 'numpy<2'"
        )
    require_opencv()
    solved = solutions()
    if task not in solved:
        close = difflib.get_close_matches(task, solved, n=1, cutoff=0.5)
        suggestion = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"task: expected one of {', '.join(sorted(solved))}, for which there is a motion "
            f"planner, got {task!r}.{suggestion}"
        )
