"""Demonstrations, blocks of their steps, and samples."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from e0_lightning.data.formats.base import DemoReader, Floats
from e0_lightning.data.formats.frames import Pixels

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
    """A block in memory."""

    first: int
    """Step of the first image and state: of the block, or before it for the history."""
    images: dict[str, Pixels]
    states: Floats
    actions: Floats
    """From the first step of the block on."""
    intrinsics: dict[str, Floats]


class Sample(NamedTuple):
    """One sample, before collation."""

    images: dict[str, Pixels]
    state: Floats
    actions: Floats
    intrinsics: dict[str, Floats]
    past_images: dict[str, Pixels]
    """Images of the steps before, oldest first."""
    past_states: Floats
