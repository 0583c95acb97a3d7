"""What a run logs, prints, and stops at."""

import lightning.pytorch as pl
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.training.callbacks import progress_lines, throughput
from e0_lightning.training.callbacks.batch_images import log_image, network_images
from e0_lightning.training.callbacks.best_checkpoint import BestCheckpoint
from e0_lightning.training.callbacks.progress_lines import ProgressLines
from e0_lightning.training.callbacks.throughput import TrainingThroughput
from tiny_policy import (
    SPEC,
    Episodes,
    InMemoryDemos,
    new_policy,
    quiet_trainer,
    ready_policy,
    tiny_settings,
)


class DemosAndEpisodes(InMemoryDemos):
    """Validation on demonstrations and on two episodes."""

    def val_dataloader(self):
        return [self.train_dataloader(), DataLoader([Episodes([1, 2])], batch_size=None)]


class Counted:
    num_val_episodes = 2


def fit(folder, data=None, policy=None, **options):
    logger = pl.loggers.TensorBoardLogger(folder, name=None)
    trainer = quiet_trainer(folder, logger=logger, log_every_n_steps=1, **options)
    trainer.fit(policy or new_policy(tiny_settings()), datamodule=data or InMemoryDemos())
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    return events


def scalars(events):
    return {tag: [each.value for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_fit_logs_each_quantity_once(tmp_path):
    events = fit(tmp_path, DemosAndEpisodes(), max_epochs=3)
    logged = scalars(events)
    for tag in ("loss", "token_accuracy", "gradient_norm", "learning_rate"):
        assert len(logged[f"train/{tag}"]) == 12  # one per step
    dims = [f"action_l1/dim_{index}" for index in range(SPEC.action_dim)]
    for tag in ("loss", "token_accuracy", "action_l1", *dims):
        assert len(logged[f"val/{tag}"]) == 3  # one per validation
    assert logged["val/success_rate"] == [1.0, 1.0, 1.0]
    assert all(0 <= value <= 1 for value in logged["val/token_accuracy"])
    by_tau = {tag.rpartition("/")[2] for tag in logged if "token_accuracy/tau_" in tag}
    assert {"tau_0-0.2", "tau_0.2-0.4"} <= by_tau
    assert not [tag for tag in logged if "cross_entropy" in tag]
    means = [logged[f"val/{dim}"][0] for dim in dims]
    assert logged["val/action_l1"][0] == pytest.approx(sum(means) / len(means))
    assert max(logged["train/learning_rate"]) == pytest.approx(3e-3)


def test_hyperparameters_and_images_of_the_first_batch_are_logged(tmp_path):
    class Darkened(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch["images"] = {view: x // 2 for view, x in batch["images"].items()}

    events = fit(tmp_path, max_epochs=1, callbacks=[Darkened()])
    (image,) = events.Images("train/images/base")
    assert (image.height, image.width) == (32, 4 * 32)
    assert events.summary_metadata["_hparams_/session_start_info"]
    hparams = (tmp_path / "version_0" / "hparams.yaml").read_text()
    assert "num_bins: 32" in hparams


def test_network_images_show_crop_and_resize():
    settings = tiny_settings("Regression")
    settings["init_args"]["encoder"]["vision"]["crop"] = {"base": [0, 0, 16]}
    policy = ready_policy(settings)
    frames = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    frames[:, 0, :16, :16] = 255
    strip = network_images(policy, frames, "base")
    assert strip.shape == (3, 32, 64)
    assert strip[0].min() >= 254
    assert strip[1:].max() <= 1


def test_images_go_to_loggers_with_log_image():
    class WandbLike:
        def log_image(self, key, images, step=None):
            self.logged = key, images[0].shape, step

    logger = WandbLike()
    log_image(logger, "train/images/base", torch.zeros(3, 8, 16, dtype=torch.uint8), 1)
    assert logger.logged == ("train/images/base", (8, 16, 3), 1)
    log_image(pl.loggers.CSVLogger("unused"), "x", torch.zeros(3, 8, 16), 1)


def test_waiting_is_for_data_and_not_for_validations(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput, "perf_counter", lambda: now[0])

    class SlowStep(pl.Callback):
        def on_before_backward(self, *_):
            now[0] += 3.0

        def on_validation_batch_start(self, *_):
            now[0] += 1000.0

    class SlowReader(list):
        def __getitem__(self, index):
            now[0] += 1.0
            return super().__getitem__(index)

    class SlowDemos(InMemoryDemos):
        def train_dataloader(self):
            return DataLoader(SlowReader(super().train_dataloader().dataset), batch_size=None)

        val_dataloader = InMemoryDemos.train_dataloader

    options = {"max_epochs": 1, "val_check_interval": 2, "callbacks": [SlowStep()]}
    logged = scalars(fit(tmp_path, SlowDemos(), **options))
    assert max(logged["perf/data_wait_fraction"]) == pytest.approx(0.25)
    assert min(logged["perf/samples_per_second"]) == pytest.approx(1.0)


def test_a_callback_of_the_user_replaces_the_default_of_its_type(tmp_path):
    own = TrainingThroughput(window=3)
    trainer = quiet_trainer(tmp_path, max_steps=1, callbacks=[own])
    trainer.fit(new_policy(tiny_settings("Regression")), datamodule=InMemoryDemos())
    assert [each for each in trainer.callbacks if isinstance(each, TrainingThroughput)] == [own]


def test_progress_is_printed_in_lines_where_the_output_is_no_terminal(
    tmp_path, capsys, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(progress_lines, "perf_counter", lambda: now[0])

    class Slow(pl.Callback):
        def on_train_batch_start(self, *_):
            now[0] += 6.0

    trainer = quiet_trainer(tmp_path, max_steps=8, callbacks=[Slow()], enable_progress_bar=True)
    trainer.fit(new_policy(tiny_settings("Regression")), datamodule=InMemoryDemos())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    steps = [line for line in lines if "validation" not in line]
    assert [line.split()[1] for line in steps] == ["2/8", "4/8", "6/8", "8/8"]
    assert "loss " in steps[0]
    assert "samples/s" in steps[0]
    assert "ETA 0:00:36" in steps[0]
    validations = [line for line in lines if "validation" in line]
    assert len(validations) == 2
    assert "val/action_l1 " in validations[0]


def test_no_lines_are_printed_without_progress_bar(tmp_path, capsys):
    trainer = quiet_trainer(tmp_path, max_steps=2, callbacks=[ProgressLines(interval=0.0)])
    trainer.fit(new_policy(tiny_settings("Regression")), datamodule=InMemoryDemos())
    assert "step " not in capsys.readouterr().out


class Explosion(pl.Callback):
    """Makes the loss or the gradient of one step NaN."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and self.what == "loss":
            batch["actions"] = batch["actions"] * torch.nan

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.step and self.what == "gradient":
            pl_module.projection.head.bias.grad[0] = torch.inf


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_training_stops_before_the_first_non_finite_step(tmp_path, what):
    saving = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    options = {"max_steps": 8, "callbacks": [Explosion(3, what), saving]}
    trainer = quiet_trainer(tmp_path, **options)
    message = r"before step 4: expected a finite loss .*Resume from .*last\.ckpt"
    with pytest.raises(ValueError, match=message):
        trainer.fit(new_policy(tiny_settings("Regression")), datamodule=InMemoryDemos())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
    assert load_policy(tmp_path / "last.ckpt").spec == SPEC


def test_weights_that_are_not_finite_never_replace_a_checkpoint(tmp_path):
    class Corruption(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                pl_module.projection.head.bias.data[0] = torch.nan

    saving = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    trainer = quiet_trainer(tmp_path, max_steps=8, callbacks=[Corruption(), saving])
    with pytest.raises(ValueError, match="to be written: expected finite weights"):
        trainer.fit(new_policy(tiny_settings("Regression")), datamodule=InMemoryDemos())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    load_policy(tmp_path / "last.ckpt")


def test_training_in_16_bits_throughout_is_refused(tmp_path):
    trainer = quiet_trainer(tmp_path, max_steps=1, precision="bf16-true")
    with pytest.raises(ValueError, match=r"trainer.precision: .*got bf16-true.*Use bf16-mixed"):
        trainer.fit(new_policy(tiny_settings()), datamodule=InMemoryDemos())


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bf16_on_a_processor_without_it_warns(tmp_path, monkeypatch, recwarn, has_bfloat16):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bfloat16)
    trainer = quiet_trainer(tmp_path, max_steps=1, precision="bf16-mixed")
    trainer.fit(new_policy(tiny_settings()), datamodule=InMemoryDemos())
    warned = [str(each.message) for each in recwarn if "trainer.precision" in str(each.message)]
    assert bool(warned) is not has_bfloat16
    assert all("32-true" in each for each in warned)


def test_the_best_checkpoint_has_the_lowest_loss(tmp_path):
    best = BestCheckpoint()
    losses = scalars(fit(tmp_path, max_epochs=3, callbacks=[best]))["val/loss"]
    assert best.best_model_score == pytest.approx(min(losses))
    assert best.best_model_path.endswith("checkpoints/best.ckpt")
    assert load_policy(best.best_model_path).spec == SPEC


def test_the_best_checkpoint_is_chosen_by_success_where_episodes_are_evaluated(tmp_path):
    best, data = BestCheckpoint(), DemosAndEpisodes()
    data.episodes = Counted()
    fit(tmp_path, data, max_epochs=2, callbacks=[best])
    assert (best.monitor, best.best_model_score) == ("val/success_rate", 1.0)
