"""Demonstrations, blocks of their steps, and samples."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from e0_lightning.data.formats.base import DemoReader, Floats
from e0_lightning.data.formats.stored_frames import Pixels, StoredFrames

Ints = npt.NDArray[np.int64]


class Demo(NamedTuple):
    """A demonstration and where to read it."""

    reader: DemoReader
    name: str
    steps: int
    """Actions T."""
    block_length: int
    """Steps stored together."""
    instruction: str
    source: int
    """Index of its entry in the mixture."""
    split: str | None = None
    """``train`` or ``valid`` where the file decides it."""

    @property
    def label(self) -> str:
        """Stem of the file and name, ``<stem>/<name>``."""
        return f"{PurePosixPath(self.reader.path).stem}/{self.name}"


class BlockIndex(NamedTuple):
    """Runs of samples whose images are decoded together; one entry of each array per block."""

    first: Ints
    """Index of the block's first sample."""
    size: Ints
    """Number of samples."""
    source: Ints
    """Index of its source in the mixture."""


class DecodedBlock(NamedTuple):
    """Images of a block."""

    first: int
    """Step of the first image: of the block, or before it for the history."""
    images: dict[str, Pixels | StoredFrames]
    depth: dict[str, Floats]
    """View to depth ``(n, h, w)``, for the views whose depth is read."""


class DemoNumbers(NamedTuple):
    """What a demonstration has beside images."""

    actions: Floats
    """``(T, D)``."""
    states: Floats
    """``(T, Q)``."""
