"""The order of training samples: shuffled by blocks, divided among ranks, and resumable."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from e0_lightning.data.chunk_dataset import ChunkDataset
from e0_lightning.data.samples import Ints
from e0_lightning.types import Batch

OnResume = Literal["exact", "restart_epoch"]
"""What to do with a checkpoint of the middle of an epoch of other batches."""


class BlockSampler(DistributedSampler[int]):
    """A shuffle that decodes each block about once; a function of seed, epoch and position.

    Blocks are put in random order, and each sample is moved back by a random part of
    ``buffer_blocks`` blocks: at any time, batches are sampled from about that many decoded blocks.
    Batches alternate between the workers of the data loader, each with blocks of its own, so that
    no block is decoded by two workers. The order of an epoch depends on the number of workers.

    An epoch has as many samples as the files together; those that do not fill a batch on every rank
    are left out of it.

    Args:
        dataset: Samples to order.
        batch_size: Samples in a batch, per rank.
        num_workers: Number of data loader workers, at least 1.
        seed: Seed of the shuffle.
        weights: Weight of each source among the samples; every sample once if None.
        num_replicas: Number of ranks.
        rank: Rank of this process.

    Raises:
        ValueError: If there are fewer samples than ranks.
    """

    def __init__(
        self,
        dataset: ChunkDataset,
        batch_size: int,
        num_workers: int = 1,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(
            cast("Dataset[int]", dataset), num_replicas=num_replicas, rank=rank, seed=seed
        )
        self.blocks, self.buffer_blocks = dataset.blocks(), dataset.buffer.max_blocks
        self.fingerprint = dataset.fingerprint()
        self.num_workers = num_workers
        total = len(dataset)
        self.samples_per_source = (
            None if weights is None else [round(total * w / sum(weights)) for w in weights]
        )
        if self.samples_per_source is not None:
            total = sum(self.samples_per_source)
        if total < num_replicas:
            raise ValueError(
                f"expected at least one sample for each of {num_replicas} processes, got {total}. "
                "Collect more demonstrations or use fewer processes."
            )
        self.batch_size = min(batch_size, total // num_replicas)
        self.batches = total // (self.batch_size * num_replicas)
        self.start = 0
        """Batch of the epoch to begin with."""

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        return iter(self.order()[self.start :].ravel().tolist())

    def order(self) -> Ints:
        """Sample indices of this rank's whole epoch, ``(batches, batch_size)``."""
        rng = np.random.default_rng([self.seed, self.epoch])
        chosen = rng.permutation(self._choose_blocks(rng))
        sizes = self.blocks.size[chosen]
        ranks = np.repeat(np.arange(len(chosen)), sizes)
        within = np.arange(len(ranks)) - np.repeat(sizes.cumsum() - sizes, sizes)
        samples = self.blocks.first[chosen][ranks] + within
        moved = ranks + self.buffer_blocks * rng.random(len(ranks))
        order = np.empty((self.batches, self.batch_size), dtype=np.int64)
        start = self.rank * len(self)
        for worker in range(self.num_workers):
            rows = order[worker :: self.num_workers]
            own = slice(start, start + rows.size)
            rows[:] = samples[own][moved[own].argsort(kind="stable")].reshape(rows.shape)
            start += rows.size
        return order

    def _choose_blocks(self, rng: np.random.Generator) -> Ints:
        """Blocks of an epoch: all, or as many of each source as fill its number of samples."""
        if self.samples_per_source is None:
            return np.arange(len(self.blocks.size))
        chosen: list[Ints] = []
        for source, missing in enumerate(self.samples_per_source):
            own = np.flatnonzero(self.blocks.source == source)
            while missing > 0:
                order = rng.permutation(own)
                filled = self.blocks.size[order].cumsum()
                taken = order[: int(np.searchsorted(filled, missing)) + 1]
                chosen.append(taken)
                missing -= int(self.blocks.size[taken].sum())
        return np.concatenate(chosen)


class ResumableLoader(DataLoader[Batch]):
    """A data loader over a :class:`BlockSampler` that resumes in the middle of an epoch.

    It counts the batches that the trainer has taken, not those that workers have read ahead.
    Lightning saves and restores the state with its checkpoints.
    """

    on_resume: OnResume = "exact"
    consumed = 0
    _resume: tuple[int, int] | None = None

    @property
    def order(self) -> BlockSampler:
        """The order behind this loader."""
        assert isinstance(self.sampler, BlockSampler)
        return self.sampler

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator begins at its first batch. By then the trainer has set the epoch, which it
        # does only after it has requested the iterator.
        epoch, position = self._resume or (self.order.epoch, 0)
        self._resume = None
        self.consumed = self.order.start = position if epoch == self.order.epoch else 0
        for batch in super().__iter__():
            self.consumed += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches consumed in it, and what their order depends on."""
        order = self.order
        return {
            "epoch": order.epoch,
            "consumed": self.consumed,
            "num_workers": order.num_workers,
            "settings": {
                "demos": order.fingerprint,
                "seed": order.seed,
                "processes": order.num_replicas,
                "batch_size": order.batch_size,
                "batches": order.batches,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where ``state`` was saved.

        Raises:
            ValueError: If that was within an epoch of other data, another seed, batch size or
                number of processes, and ``on_resume`` is ``exact``.
        """
        own, saved = self.state_dict()["settings"], state["settings"]
        if not 0 < state["consumed"] < saved["batches"]:
            return
        if own == saved:
            self.order.num_workers = state["num_workers"]
            self.order.set_epoch(state["epoch"])
            self._resume = state["epoch"], state["consumed"]
            return
        differing = ", ".join(
            f"{name} {saved[name]} (now {own[name]})" for name in own if own[name] != saved[name]
        )
        if self.on_resume == "exact":
            raise ValueError(
                f"The checkpoint was saved in the middle of an epoch with {differing}, so its "
                "remaining batches cannot be reproduced. Resume with the same demonstrations, "
                "seed, batch size and processes, or set --data.on_resume=restart_epoch to sample "
                "that epoch from its start."
            )
        warnings.warn(
            f"Resuming from the middle of an epoch with {differing}: the epoch is sampled from its "
            "start, for the number of batches that are left of it.",
            stacklevel=2,
        )
