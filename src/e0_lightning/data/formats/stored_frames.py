"""Raw frames that lie in a local file one after the other, read straight into a batch."""

from __future__ import annotations

import os
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


class StoredFrames:
    """Frames ``(n, h, w, 3)`` of uint8 in an open file, by the position of their bytes.

    HDF5 takes as long for its own work as for reading a small frame, and a frame that is read into
    an array of its own is copied into the batch once more. Anything but `read_into` reads them all.

    Args:
        file: The file, which may be closed and opened again meanwhile.
        offsets: Position of each frame, bytes.
        shape: Rows, columns and channels of a frame.
    """

    def __init__(self, file: LocalFile, offsets: Sequence[int], shape: tuple[int, ...]) -> None:
        self.file = file
        self.offsets = offsets
        self.shape = (len(offsets), *shape)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        frames = np.empty(self.shape, np.uint8)
        for index, frame in enumerate(frames):
            self.read_into(frame, index)
        return frames if dtype is None else frames.astype(dtype)

    def read_into(self, out: Pixels, index: int) -> None:
        """Read a frame into an array ``(h, w, 3)`` that is contiguous.

        Raises:
            ValueError: If the file ends before.
        """
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


def copy_frames(frames: Pixels | StoredFrames, rows: Sequence[int], out: Pixels) -> None:
    """Copy some of several frames ``(n, h, w, 3)`` into an array ``(len(rows), h, w, 3)``."""
    for row, target in zip(rows, out, strict=True):
        if isinstance(frames, StoredFrames):
            frames.read_into(target, row)
        else:
            target[...] = frames[row]
