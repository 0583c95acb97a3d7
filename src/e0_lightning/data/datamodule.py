"""Demonstration files as a LightningDataModule."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import fsspec
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from e0_lightning.data.block_sampler import BlockSampler, ResumableLoader
from e0_lightning.data.chunk_dataset import ChunkDataset, Demo, require_horizon, split
from e0_lightning.data.formats.base import DemoReader, open_demos
from e0_lightning.types import Batch, PolicySpec


@dataclass
class DemoSource:
    """One entry of a mixture.

    Args:
        path: A file, a glob pattern, or a URL that fsspec knows.
        weight: Share of the samples, against the weights of the other entries.
        instruction: Sentence to use in place of the file's own.
    """

    path: str
    weight: float | None = None
    instruction: str | None = None


class RobotDemos(LightningDataModule):
    """Demonstrations to imitate, and optionally the episodes to be judged by.

    Nothing is read before ``setup``. Batches follow :class:`~e0_lightning.types.Batch`; a training
    run that is killed and resumed from a checkpoint goes on with the batches it had not seen.

    Args:
        demos: Files, glob patterns or sources with a weight and an instruction. Without weights
            every window is seen once per epoch; with them, all entries need one.
        views: Cameras to read.
        state: Named parts of the robot's state, laid side by side in this order.
        horizon: Steps in an action chunk, H.
        batch_size: ChunkDataset in a batch, per process.
        num_workers: Processes that read ahead; each keeps about 80 MB of decoded images, more
            where 20 blocks of the file (HDF5 chunks of several frames) are larger. The order of
            training batches depends on it.
        validation: Share of the episodes to validate on, from 0 to below 1.
        episodes: Episodes to play for testing, and for validation if they ask for it.
    """

    def __init__(
        self,
        demos: list[str | DemoSource],
        views: list[str],
        state: list[str],
        horizon: int,
        batch_size: int = 64,
        num_workers: int = 2,
        val_fraction: float = 0.05,
        episodes: LightningDataModule | None = None,
    ) -> None:
        super().__init__()
        if not demos or not views:
            raise ValueError("demos and views: found an empty list; name at least one of each.")
        if not 0 <= val_fraction < 1:
            raise ValueError(
                f"val_fraction: found {val_fraction}, wanted a share from 0 to below 1."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size: found {batch_size}, wanted at least 1.")
        self.sources = [DemoSource(demo) if isinstance(demo, str) else demo for demo in demos]
        weights = [source.weight for source in self.sources if source.weight is not None]
        if len(weights) not in (0, len(demos)) or any(weight <= 0 for weight in weights):
            raise ValueError(
                f"demos: found weights {[source.weight for source in self.sources]}; give every "
                "entry a positive weight, or none of them."
            )
        self.shares = weights or None
        self.views = views
        self.state = state
        self.horizon = horizon
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.episodes = episodes

    @cached_property
    def files(self) -> list[tuple[int, DemoReader]]:
        """Every file of the mixture with the place of its source."""
        return [
            (place, open_demos(path, self.views, self.state))
            for place, source in enumerate(self.sources)
            for path in expand(source.path)
        ]

    @cached_property
    def spec(self) -> PolicySpec:
        """What the demonstrations promise; reads headers only.

        Raises:
            ValueError: If two files of the mixture promise different things.
        """
        (_, first), *others = self.files
        for _, file in others:
            first.spec.check_compatible(file.spec, first.path, file.path)
            file.close()
        first.close()
        return replace(first.spec, horizon=self.horizon)

    @property
    def origin(self) -> str:
        """What errors call these demonstrations."""
        return "the data (" + ", ".join(source.path for source in self.sources) + ")"

    @cached_property
    def windows(self) -> tuple[ChunkDataset, ChunkDataset | None]:
        """ChunkDataset to train and to validate on, the latter None if ``validation`` is 0."""
        _ = self.spec  # first of all, refuse files that do not fit together
        episodes = []
        for place, file in self.files:
            given = self.sources[place].instruction
            for demo in file.demos():
                told = given or file.instruction(demo.name)
                episodes.append(Demo(file, *demo, instruction=told, source=place))
            file.close()
        require_horizon(episodes, self.horizon)
        training, held = split(episodes, self.val_fraction)
        return ChunkDataset(training, self.horizon), ChunkDataset(
            held, self.horizon
        ) if held else None

    @property
    def seed(self) -> int:
        """The run's seed, as ``seed_everything`` leaves it."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def prepare_data(self) -> None:
        """Let the episodes download what they need."""
        if self.episodes is not None:
            self.episodes.prepare_data()

    def setup(self, stage: str) -> None:
        """Index the files, unless only episodes are played."""
        if stage != "test":
            _ = self.windows
        if self.episodes is not None:
            self.episodes.trainer = self.trainer
            self.episodes.setup(stage)

    def teardown(self, stage: str) -> None:
        """Let the episodes clean up."""
        if self.episodes is not None:
            self.episodes.teardown(stage)

    def action_windows(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Stream the training split without images, sources as often as their weights say.

        Yields:
            Actions ``(N, H, D)``, state ``(N, Q)``, both in robot units, and valid ``(N, H)``.

        Raises:
            ValueError: If an action or a state is not finite.
        """
        return self.windows[0].action_windows(self.shares)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled windows of the training episodes."""
        windows = self.windows[0]
        if getattr(self.trainer, "overfit_batches", 0) > 0:
            return self._loader(DataLoader, windows, batch_size=self.batch_size)
        world = (1, 0)
        if self.trainer is not None:
            world = self.trainer.world_size, self.trainer.global_rank
        lanes = max(1, self.num_workers)
        order = BlockSampler(windows, self.batch_size, lanes, self.seed, self.shares, world)
        return self._loader(ResumableLoader, windows, sampler=order, batch_size=order.batch_size)

    def val_dataloader(self) -> list[Any]:
        """ChunkDataset of the validation episodes in order, then episodes to play, where there are."""
        loaders: list[Any] = []
        if self.windows[1] is not None:
            loaders.append(self._loader(DataLoader, self.windows[1], batch_size=self.batch_size))
        hook = LightningDataModule.val_dataloader
        if self.episodes is not None and type(self.episodes).val_dataloader is not hook:
            played = self.episodes.val_dataloader()
            loaders += [played] if played else []
        return loaders

    def test_dataloader(self) -> Any:
        """Episodes to play.

        Raises:
            ValueError: If there are none.
        """
        if self.episodes is None:
            raise ValueError(
                "RobotDemos has no episodes to test on. Give it some, such as "
                "`episodes: ManiSkillEpisodes` in the data section of the config."
            )
        return self.episodes.test_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """ChunkDataset of the validation episodes in order.

        Raises:
            ValueError: If ``validation`` is 0.
        """
        if self.windows[1] is None:
            raise ValueError("validation: found 0, wanted more: predict reads validation demos.")
        return self._loader(DataLoader, self.windows[1], batch_size=self.batch_size)

    def _loader(
        self, kind: type[DataLoader[Batch]], windows: ChunkDataset, **order: Any
    ) -> DataLoader[Batch]:
        # Remote file systems keep threads, which a fork would lose; local HDF5 files are opened
        # after it.
        remote = any("://" in source.path for source in self.sources)
        return kind(
            windows,
            collate_fn=as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            multiprocessing_context="spawn" if remote and self.num_workers > 0 else None,
            pin_memory=torch.cuda.is_available(),
            # Of its own, so that starting an epoch leaves the run's random state alone.
            generator=torch.Generator(),
            **order,
        )


def as_is(batch: Any) -> Any:
    """Hand on what :class:`ChunkDataset` has collated."""
    return batch


def expand(path: str) -> list[str]:
    """Files that a path or glob pattern stands for.

    Raises:
        ValueError: If a pattern matches none.
    """
    if not glob.has_magic(path):
        return [path]
    if "://" in path:
        system, _ = fsspec.core.url_to_fs(path)
        found = [system.unstrip_protocol(match) for match in system.glob(path)]
    else:
        found = glob.glob(path)
    if not found:
        raise ValueError(f"{path}: no file matches. Check the path, or run `e0 collect`.")
    return sorted(found)
