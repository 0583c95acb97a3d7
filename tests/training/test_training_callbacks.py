"""What a run tells TensorBoard."""

import lightning.pytorch as pl
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from e0_lightning.policies.checkpoint import build_policy
from e0_lightning.training.callbacks import throughput

from .conftest import ChunkDataset, Episodes, tiny_settings, trainer


class WindowsAndEpisodes(ChunkDataset):
    """Validation on windows and on two episodes."""

    def val_dataloader(self):
        return [self.train_dataloader(), DataLoader([Episodes([1, 2])], batch_size=None)]


def fit_and_read(folder, data, **options):
    logger = pl.loggers.TensorBoardLogger(folder, name=None)
    runner = trainer(folder, logger=logger, log_every_n_steps=1, **options)
    runner.fit(build_policy(tiny_settings()), datamodule=data)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    return {tag: [each.value for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_fit_logs_losses_accuracies_errors_and_the_success_of_its_rollouts(tmp_path):
    logged = fit_and_read(tmp_path, WindowsAndEpisodes(), max_epochs=3)
    for tag in ("train/loss", "train/token_accuracy"):
        assert len(logged[tag]) == 12  # one a step
    for tag in ("val/loss", "val/token_accuracy", "val/action_error"):
        assert len(logged[tag]) == 3  # one a validation
    assert logged["val/success"] == [1.0, 1.0, 1.0]
    assert all(0 <= value <= 1 for value in logged["val/token_accuracy"])
    by_tau = [tag for tag in logged if tag.startswith("val_accuracy_by_tau/")]
    assert {tag.rpartition("/")[2] for tag in by_tau} >= {"0-0.2", "0.2-0.4"}


def test_the_share_of_waiting_is_of_data_and_not_of_validations(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput, "perf_counter", lambda: now[0])

    class Slow(pl.Callback):
        def on_before_backward(self, *_):
            now[0] += 3.0

        def on_validation_batch_start(self, *_):
            now[0] += 1000.0

    class Reader(list):
        def __getitem__(self, place):
            now[0] += 1.0
            return super().__getitem__(place)

    class Slowly(ChunkDataset):
        def train_dataloader(self):
            return DataLoader(Reader(super().train_dataloader().dataset), batch_size=None)

        val_dataloader = ChunkDataset.train_dataloader

    logged = fit_and_read(
        tmp_path, Slowly(), max_epochs=1, val_check_interval=2, callbacks=[Slow()]
    )
    assert max(logged["throughput/data_wait_share"]) == pytest.approx(0.25)
    assert min(logged["throughput/samples_per_second"]) == pytest.approx(1.0)
