"""A training run in its own process, to be killed, that logs its batches."""

import argparse
import os
import signal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from e0_lightning.data.datamodule import RobotDemos


class Recorder(LightningModule):
    """Writes the samples of each batch into a file and takes a step on them."""

    def __init__(self, log, kill_at=None):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.log_path = log
        self.kill_at = kill_at

    def training_step(self, batch, batch_idx):
        if self.kill_at == self.global_step:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.log_path, "a") as file:
            samples = (batch["state"][:, 0] * 1000 + batch["state"][:, 1]).int().tolist()
            file.write(f"{self.global_step} {self.current_epoch} {batch_idx} {samples}\n")
        return self.layer(batch["state"] / 100).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.layer(batch["state"]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    path,
    folder,
    log,
    *,
    workers,
    epochs=3,
    resume=None,
    kill_at=None,
    every=2,
    data=None,
    **trainer,
):
    """Train; checkpoints go to ``folder`` every ``every`` steps and at the end of validation."""
    options = {"batch_size": 16, "num_workers": workers, "val_fraction": 0.2, **(data or {})}
    demos = RobotDemos([path], ["cam"], ["qpos"], horizon=4, **options)
    torch.manual_seed(0)
    module = Recorder(log, kill_at)
    common = {"dirpath": folder, "save_top_k": -1}
    steps = ModelCheckpoint(**common, filename="step-{step}", every_n_train_steps=every)
    ends = ModelCheckpoint(**common, filename="validated-{step}", every_n_epochs=1)
    Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[steps, ends],
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer,
    ).fit(module, demos, ckpt_path=resume)
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("folder")
    parser.add_argument("log")
    parser.add_argument("--kill-at", type=int)
    options = parser.parse_args()
    fit(options.path, options.folder, options.log, workers=2, kill_at=options.kill_at)
