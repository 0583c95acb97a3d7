"""Samples of an observation and the action chunk that follows, read by blocks."""

from __future__ import annotations

import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from e0_lightning.data.formats.base import DemoReader, Floats
from e0_lightning.data.formats.frames import Pixels
from e0_lightning.data.samples import BlockIndex, DecodedBlock, Demo, Ints, Sample
from e0_lightning.geometry import camera_matrix
from e0_lightning.types import Batch, History, ViewSize

BUFFER_BYTES = 64 * 2**20
"""Decoded steps that one worker samples from, where that is enough blocks."""

MIN_BUFFER_BLOCKS = 16
"""Blocks that it samples from at least: about as many clips are in a batch."""

OPEN_FILES = 64
"""Files that a process keeps open; some data sets have thousands, one for each demonstration."""


class ChunkDataset(Dataset[Batch]):
    """The observation at a step and the H actions from there, for every step of every demo.

    Samples are numbered demonstration by demonstration, step by step. A chunk that reaches past the
    end of its demonstration repeats the last action there, with ``valid`` false.

    Images are read a block at a time (the rows of an HDF5 chunk; without images, a whole
    demonstration). Each process keeps the blocks it decoded last, first in first out, so memory
    does not grow with the data set.

    Args:
        demos: Demonstrations, in order.
        horizon: Steps in a chunk, H.
        n_obs_steps: Steps that are observed, the current one and those before it.
        views: View to the size of its images; None: those of the first demonstration. Images of a
            view that a file lacks are black, and masked.
    """

    def __init__(
        self,
        demos: Sequence[Demo],
        horizon: int,
        n_obs_steps: int = 1,
        views: Mapping[str, ViewSize] | None = None,
    ) -> None:
        self.demos = list(demos)
        self.horizon = horizon
        self.n_obs_steps = n_obs_steps
        self.steps: Ints = np.array([demo.steps for demo in demos])
        self.ends: Ints = self.steps.cumsum()
        spec = self.demos[0].reader.spec
        self.views = dict(spec.views if views is None else views)
        self.lacks_views = any(self._lacking(demo.reader) for demo in self.demos)
        self.calibrated = self._find_calibrated()
        numbers = 4 * (spec.state_dim + spec.action_dim)
        step = numbers + sum(size.height * size.width * 3 for size in self.views.values())
        steps = self.blocks().size.mean() + n_obs_steps - 1
        fitting = int(BUFFER_BYTES // (step * steps))
        self.buffer_blocks = max(MIN_BUFFER_BLOCKS, fitting)
        self._cache: OrderedDict[tuple[int, int], DecodedBlock] = OrderedDict()
        self._open: OrderedDict[DemoReader, None] = OrderedDict()

    def _lacking(self, reader: DemoReader) -> list[str]:
        """Views that a file has not."""
        return [view for view in self.views if view not in reader.spec.views]

    def _find_calibrated(self) -> list[str]:
        """Views whose camera matrix is in every file that has them: all batches have equal keys."""
        first_demos = {id(demo.reader): demo for demo in reversed(self.demos)}.values()
        known = {}
        for demo in first_demos:
            found = set(demo.reader.intrinsics(demo.name))
            known[demo.reader.path] = found.union(self._lacking(demo.reader))
            demo.reader.close()
        for view in self.views:
            lacking = [path for path, views in known.items() if view not in views]
            if 0 < len(lacking) < len(known):
                warnings.warn(
                    f"{lacking[0]} has no camera matrix of view {view!r} ({len(lacking)} of "
                    f"{len(known)} files have none), so no batch has one; ViewpointPerturbation "
                    "then needs one field of view for all files.",
                    stacklevel=2,
                )
        return [view for view in self.views if all(view in views for views in known.values())]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Collate the samples of these indices into one batch."""
        samples = np.asarray(indices)
        owners = np.searchsorted(self.ends, samples, side="right")
        steps = samples - (self.ends - self.steps)[owners]
        rows = [self._sample(int(d), int(s)) for d, s in zip(owners, steps, strict=True)]
        ahead = steps[:, None] + np.arange(self.horizon)
        batch = Batch(
            images={view: _stack([row.images[view] for row in rows]) for view in self.views},
            instruction=[self.demos[d].instruction for d in owners],
            state=torch.from_numpy(np.stack([row.state for row in rows])),
            actions=torch.from_numpy(np.stack([row.actions for row in rows])),
            valid=torch.from_numpy(ahead < self.steps[owners][:, None]),
            demo=[self.demos[d].label for d in owners],
            step=torch.from_numpy(steps),
        )
        if self.calibrated:
            batch["intrinsics"] = {
                view: torch.from_numpy(np.stack([row.intrinsics[view] for row in rows]))
                for view in self.calibrated
            }
        if self.lacks_views:
            specs = [self.demos[d].reader.spec for d in owners]
            batch["image_mask"] = {
                view: torch.tensor([view in spec.views for spec in specs]) for view in self.views
            }
        if self.n_obs_steps > 1:
            batch["history"] = History(
                images={v: _stack([row.past_images[v] for row in rows]) for v in self.views},
                state=torch.from_numpy(np.stack([row.past_states for row in rows])),
            )
        return batch

    def blocks(self) -> BlockIndex:
        """All blocks, in the order of their samples."""
        counts = [-(-demo.steps // demo.block_length) for demo in self.demos]
        owner = np.repeat(np.arange(len(self.demos)), counts)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        length = np.array([demo.block_length for demo in self.demos])[owner]
        source = np.array([demo.source for demo in self.demos])[owner]
        start = number * length
        size = np.minimum(length, self.steps[owner] - start)
        return BlockIndex((self.ends - self.steps)[owner] + start, size, source)

    def fingerprint(self) -> int:
        """Checksum of files, demonstrations and their lengths: equal for the same samples."""
        lines = [f"{demo.label} {demo.steps} {demo.source}" for demo in self.demos]
        return zlib.crc32("\n".join(lines).encode())

    def read_block(self, demo: int, start: int) -> DecodedBlock:
        """Read the block of a demonstration that begins at step ``start``, and its history."""
        reader, name, steps, length, *_ = self.demos[demo]
        self._keep_open(reader)
        first, stop = max(0, start - self.n_obs_steps + 1), min(start + length, steps)
        actions = reader.actions(name, start, min(stop + self.horizon - 1, steps))
        images = reader.images(name, first, stop)
        intrinsics = dict(reader.intrinsics(name)) if self.calibrated else {}
        for view in self._lacking(reader):
            height, width = self.views[view].height, self.views[view].width
            black = np.zeros((1, height, width, 3), np.uint8)
            images[view] = np.broadcast_to(black, (stop - first, height, width, 3))
            intrinsics[view] = camera_matrix(90.0, height, width)
        return DecodedBlock(
            first,
            images,
            reader.states(name, first, stop),
            _pad(actions, stop - start + self.horizon - 1),
            intrinsics,
        )

    def _sample(self, demo: int, step: int) -> Sample:
        ahead = step % self.demos[demo].block_length
        key = demo, step - ahead
        block = self._cache.get(key)
        if block is None:
            block = self._cache[key] = self.read_block(*key)
            # A sample comes at most `buffer_blocks` blocks after the first one of its block; the
            # quarter more keeps blocks that begin late.
            if len(self._cache) > self.buffer_blocks * 5 // 4 + 1:
                self._cache.popitem(last=False)
        row = step - block.first
        past = np.maximum(np.arange(step - self.n_obs_steps + 1, step), 0) - block.first
        return Sample(
            {view: pixels[row] for view, pixels in block.images.items()},
            block.states[row],
            block.actions[ahead : ahead + self.horizon],
            block.intrinsics,
            {view: pixels[past] for view, pixels in block.images.items()},
            block.states[past],
        )

    def _keep_open(self, reader: DemoReader) -> None:
        """Mark a file as used; of too many open ones, close the least recently used."""
        self._open[reader] = None
        self._open.move_to_end(reader)
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[0].close()

    def action_chunks(
        self, weights: Sequence[float] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Iterate over all samples without images, one demonstration at a time.

        Args:
            weights: Weight of each source among the samples. Chunks are repeated as often as in a
                training epoch: some sources several times, others in part.

        Yields:
            Actions ``(T, H, D)``, state ``(T, Q)`` and valid ``(T, H)`` of a demonstration.
        """
        try:
            yield from self._read_chunks(self._repeats(weights))
        finally:
            # Workers are forked later and open files of their own.
            while self._open:
                self._open.popitem()[0].close()

    def _read_chunks(
        self, repeats: npt.NDArray[np.float64]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        passed = np.zeros(len(repeats), dtype=np.int64)
        for demo in self.demos:
            name, steps, source = demo.name, demo.steps, demo.source
            self._keep_open(demo.reader)
            actions = _pad(demo.reader.actions(name, 0, steps), steps + self.horizon - 1)
            ahead = np.arange(steps)[:, None] + np.arange(self.horizon)
            chunks = (
                torch.from_numpy(actions[ahead]),
                torch.from_numpy(demo.reader.states(name, 0, steps)),
                torch.from_numpy(ahead < steps),
            )
            count = passed[source] + np.arange(steps + 1)
            times = np.diff(np.floor(repeats[source] * count + 0.5)).astype(np.int64)
            passed[source] += steps
            yield from repeat(chunks, times.min())
            if len(more := np.flatnonzero(times > times.min())):
                chosen, states, valid = (part[more] for part in chunks)
                yield chosen, states, valid

    def _repeats(self, weights: Sequence[float] | None) -> npt.NDArray[np.float64]:
        """How often an epoch has each sample of a source, on average."""
        own = np.bincount([demo.source for demo in self.demos], weights=self.steps)
        if weights is None:
            return np.ones(len(own))
        return np.asarray(len(self) * np.array(weights) / sum(weights) / own)


def _pad(actions: Floats, length: int) -> Floats:
    """Repeat the last of ``actions (n, D)`` up to ``(length, D)``."""
    missing = length - len(actions)
    return np.concatenate([actions, np.repeat(actions[-1:], missing, axis=0)])


def _stack(images: Sequence[Pixels]) -> Tensor:
    """Stack images ``(…, h, w, 3)`` into ``(B, …, 3, h, w)``, in memory channels last as stored."""
    return torch.from_numpy(np.stack(images)).movedim(-1, -3)
