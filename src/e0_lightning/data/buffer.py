"""What a process keeps of the demonstrations: decoded blocks of images, and numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from e0_lightning.data.formats.base import DemoReader, Floats
from e0_lightning.data.formats.depth import read_depth
from e0_lightning.data.formats.stored_frames import StoredFrames
from e0_lightning.data.open_files import OpenFiles
from e0_lightning.data.samples import DecodedBlock, Demo, DemoNumbers
from e0_lightning.geometry import camera_matrix
from e0_lightning.types import ViewSize

BUFFER_BYTES = 64 * 2**20
"""Decoded steps that one worker samples from, where that is enough blocks."""

MIN_BUFFER_BLOCKS = 16
"""Blocks that it samples from at least: about as many clips are in a batch."""

NUMBER_BYTES = 64 * 2**20
"""Actions and states that a process keeps."""


class DemoBuffer:
    """Reads demonstrations by blocks, and keeps what was read last.

    Images are read a block at a time (the rows of an HDF5 chunk; without images, a whole
    demonstration), numbers for a whole demonstration. Blocks leave the buffer first in first out,
    so memory does not grow with the data set. Blocks of one step are not kept, because each is
    sampled once in an epoch. Of frames that can be read one by one only their places are kept.

    Args:
        demos: Demonstrations, in order.
        n_obs_steps: Steps that are observed, the current one and those before it.
        views: View to the size of its images. Images of a view that a file lacks are black.
        block_steps: Steps of a block, on average.
        files: Files that are open.
        depth: Views whose depth is read too.
    """

    def __init__(
        self,
        demos: Sequence[Demo],
        n_obs_steps: int,
        views: Mapping[str, ViewSize],
        block_steps: float,
        files: OpenFiles,
        depth: Sequence[str] = (),
    ) -> None:
        self.demos = demos
        self.n_obs_steps = n_obs_steps
        self.views = views
        self.files, self.depth = files, depth
        pixels = sum(size.height * size.width * 3 for size in views.values())
        pixels += sum(views[view].height * views[view].width * 4 for view in depth)
        spec = demos[0].reader.spec
        numbers = 4 * (spec.state_dim + spec.action_dim)
        steps = float(np.mean([demo.steps for demo in demos]))
        fitting = BUFFER_BYTES // ((pixels + numbers) * (block_steps + n_obs_steps - 1))
        self.max_blocks = max(MIN_BUFFER_BLOCKS, int(fitting))
        self.max_demos = max(1, int(NUMBER_BYTES // (numbers * steps)))
        self._blocks: OrderedDict[tuple[int, int], DecodedBlock] = OrderedDict()
        self._stored: OrderedDict[int, DecodedBlock] = OrderedDict()
        self._numbers: OrderedDict[int, DemoNumbers] = OrderedDict()

    def block(self, demo: int, step: int) -> DecodedBlock:
        """The block of a demonstration that has a step, with its history."""
        reader, _, steps, length, *_ = self.demos[demo]
        self.files.use(reader)
        if demo in self._stored:
            return self._stored[demo]
        key = demo, step // length * length
        if key in self._blocks:
            return self._blocks[key]
        first, stop = max(0, key[1] - self.n_obs_steps + 1), min(key[1] + length, steps)
        block = self.read_block(demo, first, stop)
        # Frames that are still in the file cost nothing: those of all steps are kept.
        stored = block.images and all(isinstance(f, StoredFrames) for f in block.images.values())
        if stored and not self.depth:
            block = self._stored[demo] = self.read_block(demo, 0, steps)
            if len(self._stored) > self.max_demos:
                self._stored.popitem(last=False)
        elif length > 1:
            self._blocks[key] = block
            # A sample comes at most `max_blocks` blocks after the first one of its block; the
            # quarter more keeps blocks that begin late.
            if len(self._blocks) > self.max_blocks * 5 // 4 + 1:
                self._blocks.popitem(last=False)
        return block

    def read_block(self, demo: int, start: int, stop: int) -> DecodedBlock:
        """Read the images of steps ``start`` to ``stop``, and their depth."""
        reader, name, *_ = self.demos[demo]
        images = reader.stored_images(name, start, stop)
        for view in self.lacking(reader):
            height, width = self.views[view].height, self.views[view].width
            black = np.zeros((1, height, width, 3), np.uint8)
            images[view] = np.broadcast_to(black, (stop - start, height, width, 3))
        depth = {view: read_depth(reader, name, view, start, stop) for view in self.depth}
        return DecodedBlock(start, images, depth)

    def numbers(self, demo: int) -> DemoNumbers:
        """Actions and states of a demonstration."""
        numbers = self._numbers.get(demo)
        if numbers is None:
            numbers = self._numbers[demo] = self.read_numbers(demo)
            if len(self._numbers) > self.max_demos:
                self._numbers.popitem(last=False)
        return numbers

    def read_numbers(self, demo: int) -> DemoNumbers:
        """Read the numbers of a demonstration."""
        reader, name, steps, *_ = self.demos[demo]
        self.files.use(reader)
        return DemoNumbers(reader.actions(name, 0, steps), reader.states(name, 0, steps))

    def intrinsics(self, demo: int) -> dict[str, Floats]:
        """View to the camera matrix of a demonstration, any for views that its file has not."""
        reader = self.demos[demo].reader
        self.files.use(reader)
        sizes = {view: self.views[view] for view in self.lacking(reader)}
        return {
            **reader.intrinsics(self.demos[demo].name),
            **{view: camera_matrix(90.0, size.height, size.width) for view, size in sizes.items()},
        }

    def lacking(self, reader: DemoReader) -> list[str]:
        """Views that a file has not."""
        return [view for view in self.views if view not in reader.spec.views]
