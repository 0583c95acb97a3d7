"""`e0 benchmark data`: throughput, decoding and memory of reading demonstrations."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from math import prod
from multiprocessing import Value, active_children
from pathlib import Path

from e0_lightning.data.chunk_dataset import ChunkDataset
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.samples import DecodedBlock, Demo

DATA_MEMORY = ("Pss_Anon", "Pss_Shmem")
"""Memory without program code, shared pages divided among their processes."""

SAMPLING_INTERVAL = 0.5
"""Seconds between two measurements of memory."""


class _CountingDataset(ChunkDataset):
    """A `ChunkDataset` that counts decoded blocks, across processes."""

    def __init__(self, demos: Sequence[Demo], horizon: int) -> None:
        super().__init__(demos, horizon)
        self.num_decoded = Value("q", 0)

    def read_block(self, demo: int, start: int) -> DecodedBlock:
        with self.num_decoded:
            self.num_decoded.value += 1
        return super().read_block(demo, start)


class _PeakMemory:
    """Peak memory of this process and its data loader workers, in MB."""

    def __init__(self) -> None:
        pid = os.getpid()
        self._before = _memory(pid, "Rss"), _memory(pid, *DATA_MEMORY)
        self._updated = 0.0
        self.main = self.worker = self.total = 0.0

    def update(self) -> None:
        """Measure, unless the last measurement is recent."""
        if time.perf_counter() - self._updated < SAMPLING_INTERVAL:
            return
        pid = os.getpid()
        workers = [child.pid for child in active_children() if child.pid]
        total = sum(_memory(each, *DATA_MEMORY) for each in [pid, *workers])
        self.main = max(self.main, _memory(pid, "Rss") - self._before[0])
        self.worker = max([self.worker, *(_memory(each, "Rss") for each in workers)])
        self.total = max(self.total, total - self._before[1])
        self._updated = time.perf_counter()


def benchmark(
    path: str, num_workers: int = 2, batch_size: int = 64, horizon: int = 12
) -> dict[str, float]:
    """Measure an epoch of the data loader, and a plain read of the same frames with h5py.

    Args:
        path: A file of demonstrations.
        num_workers: Worker processes of the data loader.
        batch_size: Samples in a batch.
        horizon: Steps in an action chunk.

    Returns:
        Frames per second of the data loader and of the plain read in one process; mean number of
        times that a block is decoded; and peak memory in MB: growth of the resident memory of this
        process, resident memory of a worker (with the pages that it shares with this process), and
        growth of all processes together, shared pages counted once. Memory is read from Linux's
        ``/proc``.
    """
    reader = open_demos(path)
    views = list(reader.spec.views)
    reader.close()
    plain_rate = _plain_rate(path, views)
    memory = _PeakMemory()
    datamodule = RobotDemos([path], views, [], horizon, batch_size, num_workers, val_fraction=0)
    dataset = _CountingDataset(datamodule.datasets[0].demos, horizon)
    datamodule.datasets = dataset, None
    frames, start = 0, time.perf_counter()
    for batch in datamodule.train_dataloader():
        frames += len(batch["state"]) * len(views)
        memory.update()
    rate = frames / (time.perf_counter() - start)
    report = {
        "demos": len(dataset.demos),
        "frames": frames,
        "loader_frames_per_second": round(rate, 1),
        "plain_frames_per_second": round(plain_rate, 1),
        "loader_over_plain": round(rate / plain_rate, 3),
        "decodes_per_block": round(dataset.num_decoded.value / len(dataset.blocks().size), 3),
        "main_rss_growth_mb": round(memory.main, 1),
        "worker_rss_mb": round(memory.worker, 1),
        "total_memory_growth_mb": round(memory.total, 1),
    }
    print(json.dumps(report, indent=2))
    return report


def _memory(pid: int, *kinds: str) -> float:
    """Return the memory of a process in MB, as the sum of these kinds in its ``smaps_rollup``."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {kind: float(size) for kind, size, _ in (line.split() for line in lines)}
    return sum(sizes[f"{kind}:"] for kind in kinds) / 1024


def _plain_rate(path: str, views: list[str]) -> float:
    """Return the frames per second of reading all image datasets in one process."""
    reader = open_demos(path, views, [])
    start, frames = time.perf_counter(), 0
    for demo in reader.demos():
        # A set, because several views may be in one dataset.
        for dataset in set(reader.image_dataset(demo.name).values()):
            frames += prod(dataset[()].shape[:-3])
    reader.close()
    return frames / (time.perf_counter() - start)
