"""What `lightning predict` leaves on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from e0_lightning.types import Batch


class PredictionWriter(BasePredictionWriter):
    """Writes the chunks a policy chooses beside those of the demonstrator, batch by batch.

    ``predictions/rank_<i>.h5`` in the trainer's log directory gets ``predicted`` and ``actions``
    ``(N, H, D)`` and ``state`` ``(N, Q)`` in robot units, and ``valid`` ``(N, H)``, window by
    window in the order of the data: of ``RobotDemos``, the episodes that are held out.
    """

    def __init__(self) -> None:
        super().__init__("batch")
        self._path = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new file."""
        # Asking a trainer for its log directory is a collective call: every rank, once.
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"rank_{trainer.global_rank}.h5"
        self._path.unlink(missing_ok=True)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append a batch."""
        told: dict[str, Any] = {"predicted": prediction, **batch}
        with h5py.File(self._path, "a") as file:
            for name in ("predicted", "actions", "state", "valid"):
                _append(file, name, told[name].cpu().numpy())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where they are."""
        print(f"\n{self._path}")


def _append(file: h5py.File, name: str, rows: np.ndarray[Any, Any]) -> None:
    if name not in file:
        file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]))
        return
    held: h5py.Dataset = file[name]
    held.resize(len(held) + len(rows), axis=0)
    held[-len(rows) :] = rows
