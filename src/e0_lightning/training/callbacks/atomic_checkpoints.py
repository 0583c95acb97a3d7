"""Complete checkpoints in every trainer of a policy."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.fabric.plugins import TorchCheckpointIO

from e0_lightning.training.checkpoint_io import AtomicCheckpointIO


class AtomicCheckpoints(pl.Callback):
    """Saves with `AtomicCheckpointIO`, unless the trainer has a checkpoint plugin of its own."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Replace Lightning's default plugin."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
