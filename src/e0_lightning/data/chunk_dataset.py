"""Samples of an observation and the action chunk that follows, read by blocks."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from e0_lightning.data.buffer import DemoBuffer
from e0_lightning.data.formats.base import Floats
from e0_lightning.data.formats.depth import read_depth
from e0_lightning.data.formats.stored_frames import copy_frame
from e0_lightning.data.open_files import OpenFiles
from e0_lightning.data.samples import BlockIndex, Demo, Ints
from e0_lightning.data.transport import ImageBuffers, LocalTensors
from e0_lightning.types import Batch, History, ViewSize


class ChunkDataset(Dataset[Batch]):
    """The observation at a step and the H actions from there, for every step of every demo.

    Samples are numbered demonstration by demonstration, step by step. A chunk that reaches past the
    end of its demonstration repeats the last action there, with ``valid`` false.

    Args:
        demos: Demonstrations, in order.
        horizon: Steps in a chunk, H.
        n_obs_steps: Steps that are observed, the current one and those before it.
        views: View to the size of its images; None: those of the first demonstration. Images of a
            view that a file lacks are black, and masked.
        open_files: Files that are open, which several sets may share; None: of its own.
        depth: Views whose depth is read too.

    Raises:
        ValueError: If a file has no depth of such a view.
    """

    def __init__(
        self,
        demos: Sequence[Demo],
        horizon: int,
        n_obs_steps: int = 1,
        views: Mapping[str, ViewSize] | None = None,
        open_files: OpenFiles | None = None,
        depth: Sequence[str] = (),
    ) -> None:
        self.demos = list(demos)
        self.horizon = horizon
        self.n_obs_steps = n_obs_steps
        self.steps: Ints = np.array([demo.steps for demo in demos])
        self.ends: Ints = self.steps.cumsum()
        spec = self.demos[0].reader.spec
        self.views = dict(spec.views if views is None else views)
        block_steps = float(self.blocks().size.mean())
        files = open_files or OpenFiles()
        self.buffer = DemoBuffer(self.demos, n_obs_steps, self.views, block_steps, files, depth)
        self.lacks_views = any(self.buffer.lacking(demo.reader) for demo in self.demos)
        self.calibrated = self._find_calibrated()
        self.labels = [demo.label for demo in self.demos]
        self.tensors = LocalTensors()
        """Makes the tensors of batches; workers replace it."""

    def _find_calibrated(self) -> list[str]:
        """Views whose camera matrix is in every file that has them: all batches have equal keys."""
        first_demos = {id(demo.reader): demo for demo in reversed(self.demos)}.values()
        known = {}
        for demo in first_demos:
            found = set(demo.reader.intrinsics(demo.name))
            for view in self.buffer.depth:
                read_depth(demo.reader, demo.name, view, 0, 1)
            known[demo.reader.path] = found.union(self.buffer.lacking(demo.reader))
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
        ahead, lengths = steps[:, None] + np.arange(self.horizon), self.steps[owners][:, None]
        past = (steps[:, None] + np.arange(1 - self.n_obs_steps, 0)).clip(0)
        images, past_images, depth = self._read_images(owners, steps, past)
        numbers = [self.buffer.numbers(demo) for demo in owners.tolist()]
        within = ahead.clip(max=lengths - 1)
        chunks = [demo.actions[rows] for demo, rows in zip(numbers, within, strict=True)]
        states = [demo.states[step] for demo, step in zip(numbers, steps, strict=True)]
        tensor = self.tensors.numbers
        batch = Batch(
            images=images,
            instruction=[self.demos[d].instruction for d in owners],
            state=tensor(np.stack(states)),
            actions=tensor(np.stack(chunks)),
            valid=tensor(ahead < lengths),
            demo=[self.labels[d] for d in owners],
            step=tensor(steps),
        )
        if self.calibrated:
            intrinsics = [self.buffer.intrinsics(demo) for demo in owners.tolist()]
            batch["intrinsics"] = {
                view: tensor(np.stack([known[view] for known in intrinsics]))
                for view in self.calibrated
            }
        if depth:
            batch["depth"] = {view: tensor(np.stack(each)) for view, each in depth.items()}
        if self.lacks_views:
            specs = [self.demos[d].reader.spec for d in owners]
            batch["image_mask"] = {
                view: tensor(np.array([view in spec.views for spec in specs]))
                for view in self.views
            }
        if self.n_obs_steps > 1:
            before = [demo.states[rows] for demo, rows in zip(numbers, past, strict=True)]
            batch["history"] = History(images=past_images, state=tensor(np.stack(before)))
        return batch

    def _read_images(
        self, owners: Ints, steps: Ints, past: Ints
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, list[Floats]]]:
        """View to the images ``(B, 3, h, w)`` of some steps, and ``(B, n, 3, h, w)`` before them.

        In memory channels are last, as they are stored. The third are B depths ``(h, w)`` by view.
        """
        now, before, tensors, past_tensors = {}, {}, {}, {}
        depth: dict[str, list[Floats]] = {view: [] for view in self.buffer.depth}
        for view, size in self.views.items():
            shape = size.height, size.width, 3
            now[view], tensors[view] = self.tensors.images((len(steps), *shape))
            if past.size:
                before[view], past_tensors[view] = self.tensors.images((*past.shape, *shape))
        observed = np.column_stack([past, steps]).tolist()
        for row, (demo, rows) in enumerate(zip(owners.tolist(), observed, strict=True)):
            block = self.buffer.block(demo, rows[-1])
            *earlier, current = (step - block.first for step in rows)
            # Copied at once, while they are in the cache of the processor.
            for view, frames in block.images.items():
                copy_frame(frames, current, now[view][row])
                for place, step in enumerate(earlier):
                    copy_frame(frames, step, before[view][row, place])
            for view, values in block.depth.items():
                depth[view].append(values[current])
        return tensors, past_tensors, depth

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

    def image_buffers(self, num_workers: int, batch_size: int) -> ImageBuffers:
        """Shared memory for workers that send batches of this size."""
        pixels = max((size.height * size.width * 3 for size in self.views.values()), default=0)
        steps = max(1, self.n_obs_steps - 1)
        arrays = len(self.views) * min(2, self.n_obs_steps)
        return ImageBuffers(num_workers, arrays, batch_size * steps * pixels)

    def fingerprint(self) -> int:
        """Checksum of files, demonstrations and their lengths: equal for the same samples."""
        described = zip(self.labels, self.demos, strict=True)
        lines = [f"{label} {demo.steps} {demo.source}" for label, demo in described]
        return zlib.crc32("\n".join(lines).encode())

    def describe(self) -> list[Any]:
        """Versions of all files, and demonstrations with their lengths, as plain values."""
        files = {demo.reader.path: demo.reader.files for demo in self.demos}
        demos = [[demo.reader.path, demo.name, demo.steps, demo.source] for demo in self.demos]
        return [[sorted(versions.items()) for versions in files.values()], demos]

    def check_numbers(self) -> bool:
        """Read all actions and states.

        Returns:
            True.

        Raises:
            ValueError: If one is not finite, or cannot be read.
        """
        for _ in self.action_chunks():
            pass
        return True

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
            self.buffer.files.close()

    def _read_chunks(
        self, repeats: npt.NDArray[np.float64]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        passed = np.zeros(len(repeats), dtype=np.int64)
        for index, demo in enumerate(self.demos):
            steps, source = demo.steps, demo.source
            numbers = self.buffer.numbers(index)
            ahead = np.arange(steps)[:, None] + np.arange(self.horizon)
            chunks = (
                torch.from_numpy(numbers.actions[ahead.clip(max=steps - 1)]),
                torch.tensor(numbers.states),
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
