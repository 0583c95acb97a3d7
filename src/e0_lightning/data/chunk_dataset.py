"""Every start of an action chunk in every demonstration, indexed from headers, read by blocks."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from e0_lightning.data.formats.base import DemoReader, Floats, Pixels
from e0_lightning.types import Batch

Ints = npt.NDArray[np.int64]

POOL_BYTES = 64 * 2**20
"""DecodedBlock images among which one worker shuffles, where that is enough blocks."""

POOL_BLOCKS = 16
"""BlockIndex among which it shuffles at least: a batch is drawn from about as many clips."""

OPEN_FILES = 64
"""Files a process keeps open: some benchmarks give each of thousands of episodes one of its own."""


class Demo(NamedTuple):
    """A demonstration and where to read it."""

    file: DemoReader
    name: str
    steps: int
    """Actions T."""
    block: int
    """Steps stored together."""
    instruction: str
    source: int
    """Place of its source in the mixture."""


class BlockIndex(NamedTuple):
    """Runs of windows whose images are decoded together; one entry of each array per block."""

    first: Ints
    """Index of the block's first window."""
    size: Ints
    """Number of windows."""
    source: Ints
    """Place of its source in the mixture."""


class DecodedBlock(NamedTuple):
    """A block as it is kept in memory; rows are its windows."""

    images: dict[str, Pixels]
    states: Floats
    actions: Floats
    intrinsics: dict[str, Floats]


class ChunkDataset(Dataset[Batch]):
    """Observation at a step and the H actions that follow, for every step of every episode.

    ChunkDataset are numbered episode after episode, step after step. A window that reaches past the
    end of its episode repeats the last action there, with ``valid`` false.

    Images are read a block at a time (the rows of an HDF5 chunk), and each process keeps the
    blocks it decoded last, first in first out, so memory does not grow with the data set.

    Args:
        episodes: Demonstrations, in order.
        horizon: Steps in a chunk, H.
    """

    def __init__(self, episodes: Sequence[Demo], horizon: int) -> None:
        self.episodes = list(episodes)
        self.horizon = horizon
        self.steps: Ints = np.array([episode.steps for episode in episodes])
        self.ends: Ints = self.steps.cumsum()
        spec = self.episodes[0].file.spec
        self.views = list(spec.views)
        self.calibrated = self._calibrated()
        frame = sum(side**2 * 3 for side in spec.views.values())
        fitting = int(POOL_BYTES // max(1, frame * self.blocks().size.mean()))
        self.pool = max(POOL_BLOCKS, fitting)
        self._cache: OrderedDict[tuple[int, int], DecodedBlock] = OrderedDict()
        self._opened: OrderedDict[DemoReader, None] = OrderedDict()

    def _calibrated(self) -> list[str]:
        """Views whose camera matrix every file knows, so that all batches have the same keys."""
        files = {id(e.file): e for e in reversed(self.episodes)}.values()
        known = {}
        for first in files:
            known[first.file.path] = set(first.file.intrinsics(first.name))
            first.file.close()
        for view in self.views:
            lacking = [path for path, found in known.items() if view not in found]
            if 0 < len(lacking) < len(known):
                warnings.warn(
                    f"{lacking[0]} does not tell the camera matrix of view {view!r} "
                    f"({len(lacking)} of {len(known)} files do not), so no batch holds it; an "
                    "augmentation that needs it will ask for one field of view for all files.",
                    stacklevel=2,
                )
        return [view for view in self.views if all(view in found for found in known.values())]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Collate the windows of these numbers into one batch."""
        wanted = np.asarray(indices)
        episodes = np.searchsorted(self.ends, wanted, side="right")
        steps = wanted - (self.ends - self.steps)[episodes]
        rows = [self._window(int(e), int(s)) for e, s in zip(episodes, steps, strict=True)]
        images, states, actions, intrinsics = zip(*rows, strict=True)
        ahead = steps[:, None] + np.arange(self.horizon)
        batch = Batch(
            images={view: upright([row[view] for row in images]) for view in self.views},
            instruction=[self.episodes[e].instruction for e in episodes],
            state=torch.from_numpy(np.stack(states)),
            actions=torch.from_numpy(np.stack(actions)),
            valid=torch.from_numpy(ahead < self.steps[episodes][:, None]),
        )
        if self.calibrated:
            batch["intrinsics"] = {
                view: torch.from_numpy(np.stack([row[view] for row in intrinsics]))
                for view in self.calibrated
            }
        return batch

    def blocks(self) -> BlockIndex:
        """All blocks, in the order of their windows."""
        counts = [-(-episode.steps // episode.block) for episode in self.episodes]
        owner = np.repeat(np.arange(len(self.episodes)), counts)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        length = np.array([episode.block for episode in self.episodes])[owner]
        source = np.array([episode.source for episode in self.episodes])[owner]
        start = place * length
        size = np.minimum(length, self.steps[owner] - start)
        return BlockIndex((self.ends - self.steps)[owner] + start, size, source)

    def read(self, episode: int, start: int) -> DecodedBlock:
        """Read the block of one episode that begins at step ``start``."""
        file, name, steps, block, _, _ = self.episodes[episode]
        self._keep_open(file)
        stop = min(start + block, steps)
        actions = file.actions(name, start, min(stop + self.horizon - 1, steps))
        return DecodedBlock(
            file.images(name, start, stop),
            file.states(name, start, stop),
            pad(actions, stop - start + self.horizon - 1),
            file.intrinsics(name) if self.calibrated else {},
        )

    def _window(
        self, episode: int, step: int
    ) -> tuple[dict[str, Pixels], Floats, Floats, dict[str, Floats]]:
        row = step % self.episodes[episode].block
        key = episode, step - row
        block = self._cache.get(key)
        if block is None:
            block = self._cache[key] = self.read(*key)
            # A window is drawn at most `pool` blocks after the first of its block; the quarter
            # more leaves room for blocks that begin late.
            if len(self._cache) > self.pool * 5 // 4 + 1:
                self._cache.popitem(last=False)
        return (
            {view: pixels[row] for view, pixels in block.images.items()},
            block.states[row],
            block.actions[row : row + self.horizon],
            block.intrinsics,
        )

    def _keep_open(self, file: DemoReader) -> None:
        """Let this file stay open; of too many, close the one that was read longest ago."""
        self._opened[file] = None
        self._opened.move_to_end(file)
        if len(self._opened) > OPEN_FILES:
            self._opened.popitem(last=False)[0].close()

    def action_windows(
        self, shares: Sequence[float] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Stream all windows without images, one episode at a time.

        Args:
            shares: Weight of each source among the samples. ChunkDataset come as often as a training
                epoch draws them: those of some sources several times, every other one of others.

        Yields:
            Actions ``(T, H, D)``, state ``(T, Q)`` and valid ``(T, H)`` of an episode.
        """
        try:
            yield from self._drawn(self._draws(shares))
        finally:
            # Workers are forked later; they open files of their own.
            while self._opened:
                self._opened.popitem()[0].close()

    def _drawn(self, draws: npt.NDArray[np.float64]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        passed = np.zeros(len(draws), dtype=np.int64)
        for file, name, steps, _, _, source in self.episodes:
            self._keep_open(file)
            actions = pad(file.actions(name, 0, steps), steps + self.horizon - 1)
            ahead = np.arange(steps)[:, None] + np.arange(self.horizon)
            read = (
                torch.from_numpy(actions[ahead]),
                torch.from_numpy(file.states(name, 0, steps)),
                torch.from_numpy(ahead < steps),
            )
            count = passed[source] + np.arange(steps + 1)
            times = np.diff(np.floor(draws[source] * count + 0.5)).astype(np.int64)
            passed[source] += steps
            yield from repeat(read, times.min())
            if len(more := np.flatnonzero(times > times.min())):
                chunks, states, valid = (part[more] for part in read)
                yield chunks, states, valid

    def _draws(self, shares: Sequence[float] | None) -> npt.NDArray[np.float64]:
        """How often an epoch draws each window of a source, on average."""
        own = np.bincount([episode.source for episode in self.episodes], weights=self.steps)
        if shares is None:
            return np.ones(len(own))
        return np.asarray(len(self) * np.array(shares) / sum(shares) / own)


def pad(actions: Floats, length: int) -> Floats:
    """Repeat the last of ``actions (n, D)`` up to ``(length, D)``."""
    missing = length - len(actions)
    return np.concatenate([actions, np.repeat(actions[-1:], missing, axis=0)])


def upright(images: Sequence[Pixels]) -> Tensor:
    """Stack images ``(S, S, 3)`` into ``(B, 3, S, S)``."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def require_horizon(episodes: Sequence[Demo], horizon: int) -> None:
    """Refuse a chunk that no episode fills.

    Raises:
        ValueError: If H exceeds the length of every episode.
    """
    longest = max(episodes, key=lambda episode: episode.steps)
    if not 1 <= horizon <= longest.steps:
        raise ValueError(
            f"horizon: found {horizon}, but the longest of {len(episodes)} episodes has "
            f"{longest.steps} steps ({longest.name} of {longest.file.path}). "
            f"Choose a horizon from 1 to {longest.steps}."
        )


def split(episodes: Sequence[Demo], validation: float) -> tuple[list[Demo], list[Demo]]:
    """Part episodes into training and validation, the same share of every source.

    Whatever the run's seed, the same are held out: what one run has not seen, no other has.

    Args:
        episodes: All episodes.
        validation: Share to validate on; where positive, at least one episode of each source.

    Raises:
        ValueError: If a source has nothing left to train on.
    """
    held: set[int] = set()
    for source in sorted({episode.source for episode in episodes}):
        places = [i for i, episode in enumerate(episodes) if episode.source == source]
        count = max(1, round(validation * len(places))) if validation > 0 else 0
        if count >= len(places):
            raise ValueError(
                f"{episodes[places[0]].file.path}: validation {validation} takes {count} of "
                f"{len(places)} episodes and leaves nothing for training. Lower `validation`, "
                "set it to 0, or collect more demos."
            )
        order = np.random.default_rng([0, source]).permutation(places)
        held.update(order[:count].tolist())
    training = [episode for i, episode in enumerate(episodes) if i not in held]
    return training, [episodes[i] for i in sorted(held)]
