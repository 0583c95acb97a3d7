"""gym-aloha demonstrations from a scripted expert: `e0 collect aloha`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from e0_lightning.collection.aloha_episode_store import AlohaEpisodeStore
from e0_lightning.collection.aloha_recorder import work
from e0_lightning.collection.attempts import collect_episodes
from e0_lightning.envs.aloha_simulation import check_task
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.envs.worker_process import WorkerProcess

MAX_CONSECUTIVE_FAILURES = 20
"""Failed seeds in a row after which a task counts as one that the expert cannot solve."""


def collect(
    task: str, out: Path | None = None, num_episodes: int = 50, workers: int | None = None
) -> Path:
    """Collect successful demonstrations of a gym-aloha task, in the format of ACT's own files.

    As in ACT, a scripted expert moves both hands in gym-aloha's end-effector task, its joint
    positions are replayed as targets in the task with joint control, and replays that succeed are
    kept: one file an episode, 300 steps at 50 Hz, camera ``top`` with 480 × 640 pixels, 276 MB
    each without compression. The objects lie where gym-aloha puts them for the seeds 0, 1, 2, …;
    ``seeds.json`` lists these. Finished episodes survive an interruption of any kind: run the same
    command again to resume, or with a larger `num_episodes` to extend.

    Args:
        task: AlohaTransferCube-v0 or AlohaInsertion-v0.
        out: Folder of the episodes; None for ``data/aloha/<task>``.
        num_episodes: Demonstrations in `out`.
        workers: Worker processes; None for one per core.

    Returns:
        The folder.

    Raises:
        ValueError: If there is no such task, or `out` holds other demonstrations.
        ModuleNotFoundError: If gym-aloha is not installed.
        RuntimeError: If no offscreen renderer is found, or a worker dies.
    """
    check_task(task)
    if num_episodes < 1:
        raise ValueError(f"num_episodes: expected at least 1, got {num_episodes}.")
    folder = Path(out or Path("data/aloha") / task)
    backend = offscreen()
    with closing(AlohaEpisodeStore(folder, task)) as store, ExitStack() as stack:
        missing = num_episodes - len(store.succeeded())
        size = max(min(workers or len(os.sched_getaffinity(0)), missing), 0)
        processes = [WorkerProcess(work, task, backend) for _ in range(size)]
        for process in processes:
            stack.callback(process.end)
        try:
            reason = collect_episodes(
                store, processes, task, num_episodes, MAX_CONSECUTIVE_FAILURES
            )
        except KeyboardInterrupt:
            sys.exit(
                f"Interrupted; {len(store.succeeded())} finished episodes are kept in {folder}: "
                "run the same command again to resume."
            )
        if reason:
            raise ValueError(f"{task}: {reason}")
        print(
            f"{folder} holds {len(store.succeeded())} episodes of {task}; "
            f"{len(store.failed())} attempts failed."
        )
    return folder
