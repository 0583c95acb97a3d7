"""Plain library calls on the frames of a data loader, for `e0 benchmark data`."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from math import prod
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_image

from e0_lightning.data.block_sampler import ResumableLoader
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.encoded import find_encoding, to_bytes
from e0_lightning.data.formats.stored_frames import Pixels
from e0_lightning.geometry import resize_frames
from e0_lightning.types import ViewSize

BUFFERS = 3
"""Batches in the memory of a bare worker: two that it reads ahead and one that is in use."""


class Frame(NamedTuple):
    """Where a frame is."""

    dataset: h5py.Dataset
    step: int
    is_encoded: bool
    size: ViewSize

    def read(self) -> Pixels:
        """The frame as recorded, ``(h, w, 3)``."""
        row = self.dataset[self.step]
        if not self.is_encoded:
            return np.asarray(row)
        encoded = torch.from_numpy(np.array(to_bytes(row)))
        decoded: Pixels = decode_image(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()
        return decoded


class PlainFrames:
    """h5py's and the decoder's calls that a user would write, frame by frame.

    The frames are those of the training loader, in the same order.

    Args:
        demos: The data module.
    """

    def __init__(self, demos: RobotDemos) -> None:
        dataset, views = demos.datasets[0], demos.spec.views
        loader = demos.train_dataloader()
        assert isinstance(loader, ResumableLoader)
        self.batches: list[list[list[Frame]]] = []
        """Batches of one list for each view."""
        known: dict[int, dict[str, tuple[h5py.Dataset, bool]]] = {}
        for samples in loader.order.order():
            owners = np.searchsorted(dataset.ends, samples, side="right")
            steps = samples - (dataset.ends - dataset.steps)[owners]
            for owner in set(owners.tolist()) - set(known):
                demo = dataset.demos[owner]
                stored = demo.reader.image_dataset(demo.name)
                known[owner] = {view: (d, bool(find_encoding(d))) for view, d in stored.items()}
            places = list(zip(owners.tolist(), steps.tolist(), strict=True))
            self.batches.append(
                [
                    [
                        Frame(known[owner][view][0], step, known[owner][view][1], size)
                        for owner, step in places
                    ]
                    for view, size in views.items()
                ]
            )
        self.shapes = [(demos.batch_size, s.height, s.width, 3) for s in views.values()]
        """Shapes of the images in a batch."""

    def dropped(self) -> Iterator[int]:
        """Read each frame and drop it; yields the number of frames, batch by batch."""
        for batch in self.batches:
            for frames in batch:
                for frame in frames:
                    frame.read()
            yield sum(map(len, batch))

    def batched(self) -> Iterator[int]:
        """Read each frame into the array of its batch, resized where the loader's are."""
        for batch in self.batches:
            read_batch(batch, [np.empty(shape, np.uint8) for shape in self.shapes])
            yield sum(map(len, batch))


def read_batch(batch: list[list[Frame]], images: list[Pixels]) -> None:
    """Read frames into arrays ``(B, h, w, 3)``, one for each view."""
    for frames, array in zip(batch, images, strict=True):
        for row, frame in enumerate(frames):
            read = frame.read()
            if read.shape != array.shape[1:]:
                read = resize_frames(read[None], frame.size)[0]
            array[row] = read


class BareWorker:
    """A process that does so into memory which it shares with this one; a context manager.

    What is left of a data loader with one worker if sampling, checks and all else are left out.

    Args:
        create: Creates the data module.
    """

    def __init__(self, create: Callable[[], RobotDemos]) -> None:
        frames = PlainFrames(create())
        self.count = len(frames.batches)
        memory = [[mmap.mmap(-1, prod(shape)) for shape in frames.shapes] for _ in range(BUFFERS)]
        fork = multiprocessing.get_context("fork")
        self._connection, there = fork.Pipe()
        self._process = fork.Process(target=_serve, args=(create, memory, there), daemon=True)

    def __enter__(self) -> BareWorker:
        self._process.start()
        for buffer in range(BUFFERS):
            self._connection.send(buffer)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()

    def batches(self) -> Iterator[int]:
        """Receive batches, and let the worker use their memory again."""
        for _ in range(self.count):
            buffer, frames = self._connection.recv()
            try:
                yield frames
            finally:  # the epoch may end before
                self._connection.send(buffer)


def _serve(
    create: Callable[[], RobotDemos],
    memory: list[list[mmap.mmap]],
    connection: Connection[Any, Any],
) -> None:
    torch.set_num_threads(1)
    frames = PlainFrames(create())
    as_array = partial(np.frombuffer, dtype=np.uint8)
    arrays = [
        [as_array(part).reshape(shape) for part, shape in zip(parts, frames.shapes, strict=True)]
        for parts in memory
    ]
    for batch in cycle(frames.batches):
        buffer = connection.recv()
        read_batch(batch, arrays[buffer])
        connection.send((buffer, sum(map(len, batch))))
