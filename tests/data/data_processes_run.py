"""A policy trained on demonstrations by one process or several; it saves after every step.

Usage: data_processes_run.py DEMOS FOLDER DEVICES
"""

import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.policies.checkpoint import build_policy
from tiny_policy import tiny_settings


class Batches(pl.Callback):
    """Epoch and step of each batch, and its samples in this process."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((trainer.current_epoch, trainer.global_step, len(batch["state"])))


def fit(demos, folder, devices, steps, resume=None, **data):
    """Train for ``steps`` steps, and return the batches of this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = tiny_settings("Regression")
    settings["init_args"]["encoder"]["state_dim"] = 2
    options = {"batch_size": 4, "num_workers": 0, "val_fraction": 0.0, **data}
    batches = Batches()
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="auto" if devices == 1 else "ddp_find_unused_parameters_true",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[saving, batches],
    ).fit(
        build_policy(settings),
        RobotDemos([demos], ["cam"], ["qpos"], horizon=4, **options),
        ckpt_path=resume,
        weights_only=True,
    )
    return batches.seen


if __name__ == "__main__":
    fit(sys.argv[1], sys.argv[2], int(sys.argv[3]), steps=3)
