"""Files that `lightning predict` writes."""

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

COLUMNS = ("predicted", "actions", "state", "valid", "instruction", "demo", "step")


class PredictionWriter(BasePredictionWriter):
    """Writes predicted action chunks beside those of the demonstrator, batch by batch.

    ``predictions/rank_<i>.h5`` in the trainer's log directory holds ``predicted`` and ``actions``
    ``(N, H, D)`` and ``state`` ``(N, Q)`` in robot units, ``valid`` ``(N, H)``, and
    ``instruction``, ``demo`` and ``step`` ``(N,)`` where the data has them, in the order of the
    data; of ``RobotDemos``, the held-out demonstrations. Everything is stored with checksums, and
    read by HDF5 1.10 and later.
    """

    def __init__(self) -> None:
        super().__init__("batch")
        self._path = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a new file."""
        # The log directory is a collective call: every rank, once.
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
        columns: dict[str, Any] = {"predicted": prediction, **batch}
        with h5py.File(self._path, "a", libver="v110") as file:
            for name in COLUMNS:
                if name in columns:
                    _append(file, name, columns[name])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the path."""
        print(f"\n{self._path}")


def _append(file: h5py.File, name: str, values: Tensor | Sequence[Any]) -> None:
    rows = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if rows.dtype.kind == "U":
        # Of a fixed length, because HDF5 has no checksums for text of variable length.
        rows = np.char.encode(rows, "utf-8")
        if name in file and rows.itemsize > file[name].dtype.itemsize:
            rows = np.concatenate([file[name][()], rows])
            del file[name]
    if name not in file:
        is_text = rows.dtype.kind == "S"
        dtype = h5py.string_dtype("utf-8", rows.itemsize) if is_text else rows.dtype
        shape, limit = (0, *rows.shape[1:]), (None, *rows.shape[1:])
        file.create_dataset(name, shape, dtype, maxshape=limit, fletcher32=True)
    dataset: h5py.Dataset = file[name]
    dataset.resize(len(dataset) + len(rows), axis=0)
    dataset[-len(rows) :] = rows.astype(dataset.dtype)
