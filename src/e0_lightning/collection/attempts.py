"""Worker processes that attempt seeds until enough demonstrations succeed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, ClassVar, Protocol

from e0_lightning.envs.worker_process import WorkerProcess


class AttemptStore(Protocol):
    """Where attempts go; see `EpisodeStore`."""

    folder: Path
    """Folder in which a worker writes ``unfinished_<seed><suffix>``."""
    suffix: ClassVar[str]

    def succeeded(self) -> Mapping[int, Any]:
        """Return every demonstrated seed with its episode."""
        ...

    def untried(self) -> Iterator[int]:
        """Iterate, without end, over the seeds to try next."""
        ...

    def add(self, seed: int, source: Path) -> None:
        """Move the finished file of a seed into the store."""
        ...

    def add_failure(self, seed: int, reason: str) -> None:
        """Record why a seed failed."""
        ...


@dataclass(frozen=True)
class Shard:
    """A part of a collection that is divided among machines."""

    index: int = 1
    """From 1 on."""
    count: int = 1
    """Number of parts."""

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``<index>/<count>``, such as 1/4.

        Raises:
            ValueError: If it is not such a text, or there is no such part.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ValueError(f"shard: expected <index>/<count> such as 1/4, got {text!r}.")
        return cls(int(index), int(count))

    def select(self, seeds: Iterator[int]) -> Iterator[int]:
        """The seeds of this part; those of all parts together are all seeds."""
        return (seed for seed in seeds if seed % self.count == self.index - 1)


WHOLE = Shard()
"""A collection on one machine."""


def collect_episodes(
    store: AttemptStore,
    workers: Sequence[WorkerProcess],
    task: str,
    num_episodes: int,
    max_consecutive_failures: int,
    shard: Shard = WHOLE,
) -> str:
    """Attempt one seed after another until a store holds enough episodes.

    A worker receives ``(task, seed, path)``. It writes the episode to `path` and sends an empty
    string, or sends why the seed failed, or an exception: a `ValueError` if no seed can succeed.

    Args:
        store: Where finished episodes go.
        workers: Idle processes.
        task: Task name.
        num_episodes: Episodes that the store holds at the end.
        max_consecutive_failures: Failed seeds in a row after which the task is given up.
        shard: Which of the seeds are attempted.

    Returns:
        Why the collection ended early, empty if it did not.

    Raises:
        RuntimeError: If a process dies.
    """
    from tqdm import tqdm

    done, failures, reason = len(store.succeeded()), 0, ""
    seeds, idle = shard.select(store.untried()), list(workers)
    busy: dict[Any, tuple[WorkerProcess, int, Path]] = {}
    with tqdm(total=num_episodes, initial=done, unit="episode", desc=task.split("/")[-1]) as bar:
        while busy or (done < num_episodes and not reason):
            # Never more seeds in progress than episodes are missing: all of them may succeed.
            while idle and done + len(busy) < num_episodes and not reason:
                worker, seed = idle.pop(), next(seeds)
                path = store.folder / f"unfinished_{seed}{store.suffix}"
                worker.connection.send((task, seed, path))
                busy[worker.connection] = worker, seed, path
            for connection in wait(list(busy)):
                worker, seed, path = busy.pop(connection)
                idle.append(worker)
                result = _receive(worker, seed)
                if isinstance(result, ValueError):
                    reason = str(result)
                elif result:
                    store.add_failure(seed, result)
                    failures += 1
                    if failures == max_consecutive_failures:
                        reason = f"{failures} seeds in a row failed, the last because {result}"
                else:
                    store.add(seed, path)
                    done, failures = done + 1, 0
                    bar.update()
    return reason


def _receive(worker: WorkerProcess, seed: int) -> str | ValueError:
    """Receive why a seed failed, empty if it succeeded, or why every seed of the task would."""
    try:
        result: str | Exception = worker.connection.recv()
    except (EOFError, ConnectionResetError) as error:
        worker.process.join()
        raise RuntimeError(
            f"The process that demonstrated seed {seed} died with exit status "
            f"{worker.process.exitcode} (out of memory?). Every finished episode is kept: run the "
            "same command again, perhaps with fewer workers."
        ) from error
    if isinstance(result, Exception) and not isinstance(result, ValueError):
        raise result
    return result
