"""Frames that are read straight from their file into a batch; raw ones without HDF5."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class LocalFile(Protocol):
    """A file of this machine that is opened when it is read."""

    path: str

    @property
    def descriptor(self) -> int:
        """Number of the open file."""


class StoredFrames(ABC):
    """Frames ``(n, h, w, 3)`` of uint8 in an open file. Anything but `read_into` reads them all."""

    is_uniform: bool
    """Whether all frames are known to have the size of the first."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Number of frames, and rows, columns and channels of the first."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames."""

    @abstractmethod
    def read(self) -> Pixels | list[Pixels]:
        """All frames; a list of them if they differ in size."""

    def __getitem__(self, index: Any) -> Any:
        return self.read()[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        frames = np.empty(self.shape, np.uint8)
        for index, frame in enumerate(frames):
            self.read_into(frame, index)
        return frames if dtype is None else frames.astype(dtype)

    @abstractmethod
    def read_into(self, out: Pixels, index: int) -> None:
        """Read a frame into an array ``(h, w, 3)`` that is contiguous.

        Raises:
            ValueError: If the frame is not there, is damaged or has another size.
        """


class RawFrames(StoredFrames):
    """Raw frames by the position of their bytes.

    HDF5 takes as long for its own work as for reading a small frame, and a frame that is read into
    an array of its own is copied into the batch once more.

    Args:
        file: The file, which may be closed and opened again meanwhile.
        offsets: Position of each frame, bytes.
        shape: Rows, columns and channels of a frame.
    """

    is_uniform = True

    def __init__(self, file: LocalFile, offsets: Sequence[int], shape: tuple[int, ...]) -> None:
        self.file = file
        self.offsets = offsets
        self.frame_shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of frames, rows, columns and channels."""
        return len(self), *self.frame_shape

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self) -> Pixels:
        """All frames, read one by one."""
        return np.asarray(self)

    def read_into(self, out: Pixels, index: int) -> None:
        """Read the bytes of a frame; see the base class."""
        offset, rest = self.offsets[index], out.data.cast("B")
        descriptor = self.file.descriptor
        while rest:
            count = os.preadv(descriptor, [rest], offset)
            if not count:
                raise ValueError(
                    f"{self.file.path}: expected a frame at byte {offset}, got the end of the "
                    "file. Copy or record it again."
                )
            offset, rest = offset + count, rest[count:]


def locate_frames(dataset: h5py.Dataset) -> Sequence[int] | None:
    """Positions of the frames in a local file, bytes.

    Args:
        dataset: A data set whose chunks are checked.

    Returns:
        One position for each step; None if they are not raw RGB of uint8, each in one piece.
    """
    settings = dataset.id.get_create_plist()
    frame = dataset.shape[1:]
    if (
        dataset.dtype != np.uint8
        or len(frame) != 3
        or frame[2] != 3
        or dataset.chunks not in (None, (1, *frame))
        or settings.get_nfilters()
        or dataset.is_virtual
        or dataset.external
        or dataset.file.driver != "sec2"
        or dataset.file.userblock_size
        or not hasattr(os, "preadv")
    ):
        return None
    size = int(np.prod(frame))
    if dataset.chunks is None:
        first = dataset.id.get_offset()
        return None if first is None else range(first, first + size * len(dataset), size)
    offsets = np.empty(len(dataset), np.int64)

    def note(chunk: Any) -> None:
        offsets[chunk.chunk_offset[0]] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return array("q", offsets.tobytes())


def copy_frame(frames: Pixels | StoredFrames, index: int, out: Pixels) -> None:
    """Copy one of several frames ``(n, h, w, 3)`` into a contiguous array ``(h, w, 3)``."""
    if isinstance(frames, StoredFrames):
        frames.read_into(out, index)
    else:
        out[...] = frames[index]


def copy_pixels(frame: Pixels, out: Pixels) -> None:
    """Copy pixels ``(…, 3)``; reversed channels one by one, four times as fast as numpy does."""
    if frame.strides[-1] > 0:
        out[...] = frame
        return
    for channel in range(3):
        out[..., channel] = frame[..., channel]
