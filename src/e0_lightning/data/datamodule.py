"""Demonstration files as a LightningDataModule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from multiprocessing import get_start_method
from typing import Any, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from e0_lightning.data.block_sampler import BlockSampler, OnResume, ResumableLoader
from e0_lightning.data.chunk_dataset import ChunkDataset
from e0_lightning.data.formats.base import DemoReader
from e0_lightning.data.header_index import HeaderIndex, describe_code
from e0_lightning.data.open_files import OpenFiles
from e0_lightning.data.samples import Demo
from e0_lightning.data.sources import DemoSource, open_sources
from e0_lightning.data.split import check_horizon, read_split, split
from e0_lightning.data.transport import send_from_worker
from e0_lightning.random import derive_seed
from e0_lightning.types import Batch, PolicySpec, ViewSize


class RobotDemos(LightningDataModule):
    """Demonstrations for imitation learning, and optionally evaluation episodes.

    Nothing is read before ``setup``; of many files, what it reads is kept beside them for the next
    start (:class:`~e0_lightning.data.header_index.HeaderIndex`). Batches follow
    :class:`~e0_lightning.types.Batch`. A training run that is resumed from a checkpoint continues
    with the batches that remained of its epoch.

    Args:
        demos: Files, glob patterns, or sources with a weight, an instruction or a reader. Without
            weights every sample is used once per epoch; with them, all entries need one.
        views: Cameras to read, or camera to the size of its images (null for the recorded size);
            empty for policies of the state alone. Where some of several files lack a camera, its
            images are black there and masked (``image_mask``).
        state: State parts to read, concatenated in this order.
        horizon: Steps in an action chunk, H.
        batch_size: Samples in a batch, per process.
        num_workers: Processes that read ahead; each keeps up to 64 MB of actions and states and,
            where HDF5 chunks have several frames, about 80 MB of decoded images, more where 20
            chunks are larger. The order of training batches depends on it.
        val_fraction: Share of the demonstrations to validate on, from 0 to below 1, for files
            without lists of their own (``mask/train``, ``mask/valid``).
        episodes: Episodes for evaluation in testing, and in validation if they support it.
        on_resume: ``exact`` refuses a checkpoint from the middle of an epoch of other batches
            (another number of processes, batch size or set of demonstrations); ``restart_epoch``
            samples that epoch from its start.
        n_obs_steps: Steps that are observed: the current one and those before it, for policies with
            a memory. Before the start of a demonstration its first step is repeated.
        depth: Views whose depth is read too, where the format has it (ManiSkill 3), for
            :class:`ViewpointPerturbation` with ``max_radial``.
    """

    def __init__(
        self,
        demos: list[str | DemoSource],
        views: list[str] | dict[str, ViewSize | None],
        state: list[str],
        horizon: int,
        batch_size: int = 64,
        num_workers: int = 2,
        val_fraction: float = 0.05,
        episodes: LightningDataModule | None = None,
        on_resume: OnResume = "exact",
        n_obs_steps: int = 1,
        depth: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not demos:
            raise ValueError("demos: expected at least one entry, got an empty list.")
        if not views and not state:
            raise ValueError("views and state: expected at least one name in either, got none.")
        if not 0 <= val_fraction < 1:
            raise ValueError(
                f"val_fraction: expected a share from 0 to below 1, got {val_fraction}."
            )
        for name, count in (("batch_size", batch_size), ("n_obs_steps", n_obs_steps)):
            if count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}.")
        if on_resume not in get_args(OnResume):
            raise ValueError(f"on_resume: expected one of {get_args(OnResume)}, got {on_resume!r}.")
        self.sources = [DemoSource(demo) if isinstance(demo, str) else demo for demo in demos]
        weights = [source.weight for source in self.sources if source.weight is not None]
        if len(weights) not in (0, len(demos)) or any(weight <= 0 for weight in weights):
            raise ValueError(
                "demos: expected a positive weight for every entry, or for none, got "
                f"{[source.weight for source in self.sources]}."
            )
        if unknown := sorted(set(depth) - set(views)):
            raise ValueError(f"depth: expected views among {list(views)}, got {unknown}.")
        self.weights = weights or None
        self.views = views
        self.state = state
        self.horizon = horizon
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.episodes = episodes
        self.on_resume: OnResume = on_resume
        self.n_obs_steps, self.depth = n_obs_steps, depth

    @property
    def readers(self) -> list[tuple[int, DemoReader]]:
        """The readers of all files, each with the index of its source."""
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[list[tuple[int, DemoReader]], HeaderIndex]:
        return open_sources(self.sources, self.views, self.state)

    @cached_property
    def spec(self) -> PolicySpec:
        """Observation and action spec of the demonstrations, from headers.

        Raises:
            ValueError: If two files differ in theirs.
        """
        first = self.readers[0][1]
        sizes: dict[str, ViewSize] = {}
        for _, reader in self.readers:
            sizes = {**reader.spec.views, **sizes}
            views = {view: sizes[view] for view in reader.spec.views}
            expected = replace(first.spec, views=views)
            expected.check_compatible(reader.spec, first.path, reader.path)
        return replace(
            first.spec,
            views={view: sizes[view] for view in self.views},
            horizon=self.horizon,
            n_obs_steps=self.n_obs_steps,
        )

    @property
    def source(self) -> str:
        """What error messages call these demonstrations."""
        return "the data (" + ", ".join(source.path for source in self.sources) + ")"

    @cached_property
    def datasets(self) -> tuple[ChunkDataset, ChunkDataset | None]:
        """Samples to train on and to validate on; the latter None if ``val_fraction`` is 0."""
        views = self.spec.views  # refuses files that differ
        demos = [demo for index, reader in self.readers for demo in self._read_demos(index, reader)]
        check_horizon(demos, self.horizon)
        training, held_out = split(demos, self.val_fraction)
        options = self.horizon, self.n_obs_steps, views, OpenFiles(), self.depth
        validation = ChunkDataset(held_out, *options) if held_out else None
        datasets = ChunkDataset(training, *options), validation
        self._opened[1].save()
        return datasets

    def _read_demos(self, index: int, reader: DemoReader) -> list[Demo]:
        source, infos = self.sources[index], reader.demos()
        splits = dict.fromkeys(info.name for info in infos)
        if source.use_masks:
            splits = read_split(reader, infos)
        return [
            Demo(
                reader,
                *info,
                instruction=source.instruction or reader.instruction(info.name),
                source=index,
                split=splits[info.name],
            )
            for info in infos
            if info.name in splits
        ]

    @property
    def instructions(self) -> list[str]:
        """All instructions of training and validation, sorted."""
        return sorted({demo.instruction for part in self.datasets if part for demo in part.demos})

    def prepare_data(self) -> None:
        """Download what the episodes need."""
        if self.episodes is not None:
            self.episodes.prepare_data()

    def setup(self, stage: str) -> None:
        """Index the files, unless only episodes are evaluated, and check what is held out.

        Training data are checked by `action_chunks`, which policies read for their statistics.

        Raises:
            ValueError: If a file cannot be used, or an action or state of a held-out demonstration
                is not finite.
        """
        if stage != "test":
            _, validation = self.datasets
            if validation is not None:
                self._result(validation, "actions and states are finite", validation.check_numbers)
        if self.episodes is not None:
            self.episodes.trainer = self.trainer
            self.episodes.setup(stage)

    def teardown(self, stage: str) -> None:
        """Close the files and tear the episodes down."""
        for reader in [reader for _, reader in self.readers] if "_opened" in vars(self) else []:
            reader.close()
        if self.episodes is not None:
            self.episodes.teardown(stage)

    def action_chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Iterate over the training samples without images, sources as often as they are weighted.

        Yields:
            Actions ``(N, H, D)``, state ``(N, Q)``, both in robot units, and valid ``(N, H)``.

        Raises:
            ValueError: If an action or a state is not finite.
        """
        return self.datasets[0].action_chunks(self.weights)

    def result(self, what: Any, code: Iterable[type], compute: Callable[[], Any]) -> Any:
        """Result of a computation over `action_chunks`, kept beside many files for the next start.

        Args:
            what: All settings of what is computed, as plain values.
            code: Classes that compute it.
            compute: Returns plain values, as JSON has.
        """
        described = describe_code(code)
        if described is None:
            return compute()
        settings = [what, described, self.horizon, self.weights]
        return self._result(self.datasets[0], settings, compute)

    def _result(self, dataset: ChunkDataset, what: Any, compute: Callable[[], Any]) -> Any:
        if any("://" in demo.reader.path for demo in dataset.demos):  # may change unnoticed
            return compute()
        return self._opened[1].result([what, dataset.describe()], compute)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled samples of the training demonstrations."""
        dataset = self.datasets[0]
        if getattr(self.trainer, "overfit_batches", 0) > 0:
            return self._loader(DataLoader, dataset, batch_size=self.batch_size)
        sampler = BlockSampler(
            dataset,
            self.batch_size,
            num_workers=max(1, self.num_workers),
            seed=derive_seed("order of training samples"),
            weights=self.weights,
            num_replicas=1 if self.trainer is None else self.trainer.world_size,
            rank=0 if self.trainer is None else self.trainer.global_rank,
        )
        loader = self._loader(
            ResumableLoader, dataset, sampler=sampler, batch_size=sampler.batch_size
        )
        assert isinstance(loader, ResumableLoader)
        loader.on_resume = self.on_resume
        return loader

    def val_dataloader(self) -> list[Any]:
        """Samples of the validation demonstrations in order, then evaluation episodes, if any."""
        loaders: list[Any] = []
        if self.datasets[1] is not None:
            loaders.append(self._loader(DataLoader, self.datasets[1], batch_size=self.batch_size))
        hook = LightningDataModule.val_dataloader
        if self.episodes is not None and type(self.episodes).val_dataloader is not hook:
            episodes = self.episodes.val_dataloader()
            loaders += [episodes] if episodes else []
        return loaders

    def test_dataloader(self) -> Any:
        """Evaluation episodes.

        Raises:
            ValueError: If there are none.
        """
        if self.episodes is None:
            raise ValueError(
                "RobotDemos has no episodes to test on. Add some, such as "
                "`episodes: ManiSkillEpisodes` in the data section of the config."
            )
        return self.episodes.test_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Samples of the validation demonstrations in order.

        Raises:
            ValueError: If there are none.
        """
        if self.datasets[1] is None:
            raise ValueError(
                "val_fraction: expected more than 0, got 0: predictions are made for the "
                "demonstrations that are held out."
            )
        return self._loader(DataLoader, self.datasets[1], batch_size=self.batch_size)

    def _loader(
        self, kind: type[DataLoader[Batch]], dataset: ChunkDataset, **order: Any
    ) -> DataLoader[Batch]:
        # Remote file systems have threads, which do not survive a fork.
        remote = any("://" in source.path for source in self.sources)
        send = None
        if self.num_workers > 0 and not remote and get_start_method() == "fork":
            send = partial(
                send_from_worker, dataset.image_buffers(self.num_workers, self.batch_size)
            )
        return kind(
            dataset,
            collate_fn=_identity,
            num_workers=self.num_workers,
            worker_init_fn=send,
            persistent_workers=self.num_workers > 0,
            multiprocessing_context="spawn" if remote and self.num_workers > 0 else None,
            pin_memory=torch.cuda.is_available(),
            # Its own, so that starting an epoch does not change the global random state.
            generator=torch.Generator(),
            **order,
        )


def _identity(batch: Any) -> Any:
    """Return what :class:`ChunkDataset` has collated already."""
    return batch
