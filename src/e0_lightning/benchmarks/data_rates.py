"""Frames per second of what yields batches of frames, such as the training loader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

from e0_lightning.data.datamodule import RobotDemos

MIN_SECONDS = 0.5
"""Time of one measurement, so that it is longer than the turns of processes on a busy machine."""

READ_AHEAD = 3
"""Batches that a worker may have read before it is measured."""


def rate(epoch: Callable[[], Iterator[int]]) -> float:
    """Frames per second, without the first batches of an epoch.

    Args:
        epoch: Begins an epoch, which yields the number of frames in each batch.
    """
    frames, seconds = 0, 0.0
    while seconds < MIN_SECONDS:
        batches = epoch()
        for _ in islice(batches, READ_AHEAD):
            pass
        start, before = time.perf_counter(), seconds
        for read in batches:
            frames += read
            seconds = before + time.perf_counter() - start
            if seconds >= MIN_SECONDS:
                break
    return frames / seconds


class LoaderEpochs:
    """Epochs of the training loader, whose workers and their memory stay as in a training run.

    Args:
        demos: The data module, with nothing in memory.
    """

    def __init__(self, demos: RobotDemos) -> None:
        self.loader = demos.train_dataloader()

    def __call__(self) -> Iterator[int]:
        """Load an epoch; yields the number of frames in each batch."""
        for batch in self.loader:
            yield sum(map(len, batch["images"].values()))
