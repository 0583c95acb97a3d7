"""`e0 benchmark data`: speed, decodes and memory of reading demonstrations."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from math import prod
from multiprocessing import Value, active_children
from pathlib import Path

from e0_lightning.data.chunk_dataset import ChunkDataset, DecodedBlock, Demo
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.base import open_demos

OWN = ("Pss_Anon", "Pss_Shmem")
"""Memory that is not program text, shared pages counted by their share."""


class _CountedWindows(ChunkDataset):
    """ChunkDataset that count the blocks they decode, across processes."""

    def __init__(self, episodes: Sequence[Demo], horizon: int) -> None:
        super().__init__(episodes, horizon)
        self.decoded = Value("q", 0)

    def read(self, episode: int, start: int) -> DecodedBlock:
        with self.decoded:
            self.decoded.value += 1
        return super().read(episode, start)


def benchmark(
    path: str, num_workers: int = 2, batch_size: int = 64, horizon: int = 12
) -> dict[str, float]:
    """Read an epoch through the data loader, and the same frames plainly with h5py.

    Args:
        path: A file of demonstrations.
        num_workers: Processes that read ahead.
        batch_size: ChunkDataset in a batch.
        horizon: Steps in an action chunk.

    Returns:
        Frames per second of the loader and of the plain read in one process; how often a block is
        decoded on average; and at their peaks, in MB: growth of this process's resident memory,
        resident memory of a worker (with what it shares with this process), and growth of all
        processes together, shared pages counted once. Memory is read from Linux's ``/proc``.
    """
    file = open_demos(path)
    views = list(file.spec.views)
    file.close()
    plain = _plain(path, views)
    rss, before = _memory(os.getpid(), "Rss"), _memory(os.getpid(), *OWN)
    demos = RobotDemos([path], views, [], horizon, batch_size, num_workers, val_fraction=0)
    counted = _CountedWindows(demos.windows[0].episodes, horizon)
    demos.windows = counted, None
    frames, seen, peaks = 0, 0.0, (0.0, 0.0, 0.0)
    begin = time.perf_counter()
    for batch in demos.train_dataloader():
        frames += len(batch["state"]) * len(views)
        if time.perf_counter() - seen > 0.5:
            workers = [child.pid for child in active_children() if child.pid]
            now = (
                _memory(os.getpid(), "Rss") - rss,
                max((_memory(pid, "Rss") for pid in workers), default=0),
                sum(_memory(pid, *OWN) for pid in [os.getpid(), *workers]) - before,
            )
            peaks = max(peaks[0], now[0]), max(peaks[1], now[1]), max(peaks[2], now[2])
            seen = time.perf_counter()
    rate = frames / (time.perf_counter() - begin)
    report = {
        "episodes": len(counted.episodes),
        "frames": frames,
        "loader_frames_per_s": round(rate, 1),
        "plain_frames_per_s": round(plain, 1),
        "loader_over_plain": round(rate / plain, 3),
        "decodes_per_block": round(counted.decoded.value / len(counted.blocks().size), 3),
        "main_rss_growth_mb": round(peaks[0], 1),
        "worker_rss_mb": round(peaks[1], 1),
        "all_memory_growth_mb": round(peaks[2], 1),
    }
    print(json.dumps(report, indent=2))
    return report


def _memory(pid: int, *kinds: str) -> float:
    """Memory of a process in MB, of the given kinds in its ``smaps_rollup``."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {kind: float(size) for kind, size, _ in (line.split() for line in lines)}
    return sum(sizes[f"{kind}:"] for kind in kinds) / 1024


def _plain(path: str, views: list[str]) -> float:
    """Frames per second of reading whole image data sets one after the other, in one process."""
    file = open_demos(path, views, [])
    begin, frames = time.perf_counter(), 0
    for demo in file.demos():
        # A set, for several views may be in one data set.
        for images in set(file.stored(demo.name).values()):
            frames += prod(images[()].shape[:-3])
    file.close()
    return frames / (time.perf_counter() - begin)
