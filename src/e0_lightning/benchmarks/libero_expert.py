"""`e0 benchmark libero-expert`: success of the scripted expert in every LIBERO task."""

from __future__ import annotations

from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np

from e0_lightning.collection.libero_recorder import attempt
from e0_lightning.data.formats.libero import CONTROL_MODE
from e0_lightning.envs.libero import LiberoEnvironment
from e0_lightning.envs.libero_assets import find_assets
from e0_lightning.envs.libero_tasks import SUITES, tasks
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.envs.worker_process import WorkerProcess
from e0_lightning.types import PolicySpec

SPEC = PolicySpec(views={}, state={}, action_dim=7, control_mode=CONTROL_MODE, horizon=1)
"""Nothing is rendered."""


class Attempt(NamedTuple):
    """One attempt of the expert."""

    success: bool
    steps: int
    error: str = ""
    """Why the expert cannot solve this kind of task, else empty."""


def benchmark(suites: list[str] | None = None, num_episodes: int = 20, workers: int = 1) -> None:
    """Let the scripted expert of `e0 collect libero` try every task, and print a table.

    Initial states are sampled by seeds from 0, as the collection does; nothing is rendered.

    Args:
        suites: Names of suites; None for all.
        num_episodes: Attempts of each task.
        workers: Worker processes.

    Raises:
        ValueError: If there is no such suite.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    names = [task for suite in suites or SUITES for task in tasks(suite)]
    assets, backend = find_assets(), offscreen()
    print("| task | succeeded | mean steps | most steps | failed seeds, or why it is not tried |")
    print("| --- | --- | --- | --- | --- |")
    with ExitStack() as stack:
        processes = [WorkerProcess(work, backend, assets.path) for _ in range(workers)]
        for process in processes:
            stack.callback(process.end)
        for task in names:
            attempts = try_seeds(processes, task, num_episodes)
            print(f"| {task} | {' | '.join(summarize(attempts))} |", flush=True)


def try_seeds(processes: list[WorkerProcess], task: str, num_episodes: int) -> list[Attempt]:
    """Attempt a task from the seeds 0, 1, …, in the order of the seeds."""
    seeds, idle = iter(range(num_episodes)), [process.connection for process in processes]
    attempts: dict[int, Attempt] = {}
    while len(attempts) < num_episodes:
        while idle and (seed := next(seeds, None)) is not None:
            idle.pop().send((task, seed))
        for connection in wait([p.connection for p in processes if p.connection not in idle]):
            assert isinstance(connection, Connection)
            seed, attempts[seed] = connection.recv()
            idle.append(connection)
    return [attempts[seed] for seed in range(num_episodes)]


def summarize(attempts: list[Attempt]) -> tuple[str, str, str, str]:
    """Return the columns of a task: successes, their mean and most steps, what failed."""
    if attempts[0].error:
        return "0", "", "", attempts[0].error
    steps = [attempt.steps for attempt in attempts if attempt.success]
    failed = [str(seed) for seed, attempt in enumerate(attempts) if not attempt.success]
    mean, most = (f"{np.mean(steps):.0f}", f"{max(steps)}") if steps else ("", "")
    return f"{len(steps)} of {len(attempts)}", mean, most, ", ".join(failed)


def work(connection: Connection, backend: str, assets: Path) -> None:
    """Attempt what is received as ``(task, seed)``; send the seed and the attempt."""
    environment: LiberoEnvironment | None = None
    while True:
        task, seed = connection.recv()
        if environment is None or environment.task != task:
            if environment is not None:
                environment.close()
            environment = LiberoEnvironment(task, SPEC, backend, assets)
        try:
            actions, success = attempt(environment, seed)
            result = Attempt(success, len(actions))
        except ValueError as error:
            result = Attempt(False, 0, str(error))
        connection.send((seed, result))
