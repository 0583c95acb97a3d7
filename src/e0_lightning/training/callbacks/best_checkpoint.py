"""The checkpoint of the best validation."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, by success rate if validation evaluates episodes, else by loss.

    It lies beside the checkpoints of Lightning's ``ModelCheckpoint``, which saves the last step.
    """

    def __init__(self) -> None:
        super().__init__(
            monitor="val/loss",
            mode="min",
            filename="best",
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the metric by the data module's evaluation episodes."""
        episodes: Any = getattr(getattr(trainer, "datamodule", None), "episodes", None)
        if getattr(episodes, "num_val_episodes", 0):
            self.monitor, self.mode = "val/success_rate", "max"
            self.kth_value = torch.tensor(-torch.inf)
        super().setup(trainer, pl_module, stage)
