"""Frames per second of the data loader, and of the plain library calls on the same frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_image

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.encoded import find_encoding, to_bytes
from e0_lightning.data.formats.stored_frames import Pixels
from e0_lightning.data.samples import Demo
from e0_lightning.geometry import resize_frames
from e0_lightning.types import ViewSize

MIN_SECONDS = 0.5
"""Time of one measurement, so that it is longer than the turns of processes on a busy machine."""


def plain_rate(create: Callable[[], RobotDemos], num_frames: int, size: ViewSize | None) -> float:
    """Frames per second of h5py and the decoder in one process and the order of the file.

    Raw frames are read with one call for each block that is stored together, encoded ones with one
    call each; nothing is done with them.

    Args:
        create: Creates the data module of the files.
        num_frames: Frames to read from the start.
        size: Images to resize the frames to, as the reader does; None to leave that out.
    """
    frames, seconds = 0, 0.0
    while seconds < MIN_SECONDS:
        demos, stop = create(), frames + num_frames
        held = demos.datasets[0].demos  # indexes the files
        start = time.perf_counter()
        for read in _plain_frames(held):
            if size is not None:
                resize_frames(read, size)
            frames += len(read)
            if frames >= stop:
                break
        seconds += time.perf_counter() - start
        for _, reader in demos.readers:
            reader.close()
    return frames / seconds


def _plain_frames(demos: list[Demo]) -> Iterator[Pixels]:
    """Frames ``(n, h, w, 3)`` of all views, a block at a time."""
    for demo in demos:
        # A set, because several views may be in one data set.
        for dataset in set(demo.reader.image_dataset(demo.name).values()):
            if find_encoding(dataset):
                for step in range(demo.steps):
                    encoded = torch.from_numpy(np.array(to_bytes(dataset[step])))
                    decoded = decode_image(encoded, ImageReadMode.RGB)
                    yield decoded.permute(1, 2, 0).numpy()[None]
                continue
            rows = dataset.chunks[0] if dataset.chunks else 1
            for first in range(0, demo.steps, rows):
                read = dataset[first : first + rows]
                yield read.reshape(-1, *read.shape[-3:])


def loader_rate(create: Callable[[], RobotDemos], num_frames: int) -> float:
    """Frames per second of the training loader, once its workers are under way.

    Args:
        create: Creates the data module, with nothing in memory.
        num_frames: Frames to read of an epoch.
    """
    frames, seconds = 0, 0.0
    while seconds < MIN_SECONDS:
        demos, stop = create(), frames + num_frames
        batches = iter(demos.train_dataloader())
        # What workers read ahead before the clock starts is not counted.
        for _ in islice(batches, 2 * demos.num_workers + 1):
            pass
        start = time.perf_counter()
        for batch in batches:
            frames += len(batch["state"]) * len(batch["images"])
            if frames >= stop:
                break
        seconds += time.perf_counter() - start
    return frames / seconds
