"""Encoded frames that are decoded one by one, straight into a batch."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import h5py
from numpy.typing import NDArray

from e0_lightning.data.formats.encoded import read_header, to_bytes
from e0_lightning.data.formats.frames import Color, name_frame, to_rgb
from e0_lightning.data.formats.hdf5 import name_damage
from e0_lightning.data.formats.stored_frames import Pixels, StoredFrames, copy_pixels


class HDF5File(Protocol):
    """An HDF5 file that is opened when it is read."""

    path: str

    def find(self, key: str) -> Any:
        """A data set of the file."""

    def rows(self, dataset: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
        """Steps ``start`` to ``stop`` of a data set."""


class EncodedFrames(StoredFrames):
    """Frames of a data set of JPEG, PNG or WebP bytes.

    What is the same for all frames of a demonstration is found once, and not for each of them.

    Args:
        file: The file, which may be closed and opened again meanwhile.
        key: Path of the data set in it.
        steps: Steps of the frames.
        color: Order of the channels after decoding.
    """

    is_uniform = False

    def __init__(self, file: HDF5File, key: str, steps: range, color: Color) -> None:
        self.file = file
        self.key = key
        self.steps = steps
        self.color = color

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of frames, and rows, columns and channels of the first."""
        dataset, first = self.file.find(self.key), self.steps[0]
        with name_frame(dataset, first):
            header = read_header(to_bytes(self.file.rows(dataset, first, first + 1)[0]))
        return len(self), header.height, header.width, 3

    def __len__(self) -> int:
        return len(self.steps)

    def read(self) -> Pixels | list[Pixels]:
        """Decode all frames."""
        return self._decode(self.steps.start, self.steps.stop)

    def read_into(self, out: Pixels, index: int) -> None:
        """Decode a frame; see the base class."""
        step = self.steps[index]
        (frame,) = self._decode(step, step + 1)
        if frame.shape != out.shape:
            raise ValueError(
                f"{self.file.path}: {self.key}, frame {step}: expected {out.shape[0]} x "
                f"{out.shape[1]} pixels as in the first demonstration, got {frame.shape[0]} x "
                f"{frame.shape[1]}. Give the size of the images: "
                "data.views: {<view>: {height: …, width: …}}."
            )
        copy_pixels(frame, out)

    def _decode(self, start: int, stop: int) -> Pixels | list[Pixels]:
        with name_damage(self.file.path):
            dataset = self.file.find(self.key)
            return to_rgb(dataset, self.file.rows(dataset, start, stop), start, self.color)
