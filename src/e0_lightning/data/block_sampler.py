"""The order in which windows are read: shuffled, by blocks, sharded, and resumable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from e0_lightning.data.chunk_dataset import ChunkDataset, Ints
from e0_lightning.types import Batch


class BlockSampler(DistributedSampler[int]):
    """A shuffle that decodes each block about once; a pure function of seed, epoch and position.

    BlockIndex are put in random order, and each window is moved back by a random part of ``pool``
    blocks: at any time, batches are drawn from about ``pool`` decoded blocks. Batches alternate
    between ``lanes``, each with blocks of its own, as a data loader deals batches to its workers;
    so with as many lanes as workers, no block is decoded by two of them. The order of an epoch
    depends on the number of lanes.

    An epoch has as many windows as the files together; those that do not fill a batch on every
    rank are left for another epoch's shuffle.

    Args:
        windows: What to put in order.
        batch_size: ChunkDataset in a batch, per rank.
        lanes: Number of data loader workers, at least 1.
        seed: Seed of the shuffle.
        shares: Weight of each source among the samples; every window once if None.
        world: Number of ranks and this process's rank.

    Raises:
        ValueError: If there are fewer windows than ranks.
    """

    def __init__(
        self,
        windows: ChunkDataset,
        batch_size: int,
        lanes: int = 1,
        seed: int = 0,
        shares: Sequence[float] | None = None,
        world: tuple[int, int] = (1, 0),
    ) -> None:
        super().__init__(
            cast("Dataset[int]", windows), num_replicas=world[0], rank=world[1], seed=seed
        )
        self.blocks, self.pool = windows.blocks(), windows.pool
        self.lanes = lanes
        total = len(windows)
        self.quota = None if shares is None else [round(total * s / sum(shares)) for s in shares]
        if self.quota is not None:
            total = sum(self.quota)
        if total < world[0]:
            raise ValueError(
                f"{total} windows cannot be dealt to {world[0]} processes. "
                "Collect more demos or use fewer processes."
            )
        self.batch_size = min(batch_size, total // world[0])
        self.batches = total // (self.batch_size * world[0])
        self.start = 0
        """Batch of the epoch to begin with."""

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        return iter(self.order()[self.start :].ravel().tolist())

    def order(self) -> Ints:
        """Window numbers of this rank's whole epoch, ``(batches, batch_size)``."""
        rng = np.random.default_rng([self.seed, self.epoch])
        chosen = rng.permutation(self._draw(rng))
        sizes = self.blocks.size[chosen]
        ranks = np.repeat(np.arange(len(chosen)), sizes)
        within = np.arange(len(ranks)) - np.repeat(sizes.cumsum() - sizes, sizes)
        windows = self.blocks.first[chosen][ranks] + within
        moved = ranks + self.pool * rng.random(len(ranks))
        order = np.empty((self.batches, self.batch_size), dtype=np.int64)
        place = self.rank * len(self)
        for lane in range(self.lanes):
            rows = order[lane :: self.lanes]
            mine = slice(place, place + rows.size)
            rows[:] = windows[mine][moved[mine].argsort(kind="stable")].reshape(rows.shape)
            place += rows.size
        return order

    def _draw(self, rng: np.random.Generator) -> Ints:
        """BlockIndex of an epoch: all of them, or as many of each source as its quota asks for."""
        if self.quota is None:
            return np.arange(len(self.blocks.size))
        drawn: list[Ints] = []
        for source, wanted in enumerate(self.quota):
            own = np.flatnonzero(self.blocks.source == source)
            while wanted > 0:
                order = rng.permutation(own)
                filled = self.blocks.size[order].cumsum()
                taken = order[: int(np.searchsorted(filled, wanted)) + 1]
                drawn.append(taken)
                wanted -= int(self.blocks.size[taken].sum())
        return np.concatenate(drawn)


class ResumableLoader(DataLoader[Batch]):
    """A data loader over a :class:`BlockSampler` that goes on after the batches already consumed.

    What counts is what the trainer has taken, not what workers have fetched ahead. Lightning saves
    and restores the state with its checkpoints.
    """

    consumed = 0
    _resume: tuple[int, int] | None = None

    @property
    def shuffle(self) -> BlockSampler:
        """The order behind this loader."""
        assert isinstance(self.sampler, BlockSampler)
        return self.sampler

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator begins at its first batch. By then the trainer has set the epoch, which it
        # does only after it has asked for the iterator.
        epoch, position = self._resume or (self.shuffle.epoch, 0)
        self._resume = None
        self.consumed = self.shuffle.start = position if epoch == self.shuffle.epoch else 0
        for batch in super().__iter__():
            self.consumed += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches consumed in it, and what their order depends on."""
        order = self.shuffle
        return {
            "epoch": order.epoch,
            "consumed": self.consumed,
            "lanes": order.lanes,
            "same": {
                "seed": order.seed,
                "processes": order.num_replicas,
                "batch_size": order.batch_size,
                "batches": order.batches,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            ValueError: If that was within an epoch of other data, another seed or batch size.
        """
        own, found = self.state_dict()["same"], state["same"]
        if not 0 < state["consumed"] < found["batches"]:
            return
        if own != found:
            raise ValueError(
                f"The checkpoint was saved in mid-epoch, with {found}; this run has {own}. "
                "Resume with the same demos, seed, batch size and processes, or start from a "
                "checkpoint saved at the end of an epoch."
            )
        self.shuffle.lanes = state["lanes"]
        self.shuffle.set_epoch(state["epoch"])
        self._resume = state["epoch"], state["consumed"]
