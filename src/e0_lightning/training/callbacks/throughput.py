"""Training speed, and the fraction of time spent waiting for data."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

import lightning.pytorch as pl


class TrainingThroughput(pl.Callback):
    """Logs ``perf/samples_per_second`` and ``perf/data_wait_fraction`` over the last steps.

    Samples are those of all processes. Time between steps is data loading, except after a
    validation. (Lightning's ``ThroughputMonitor`` does not measure data loading.)

    Args:
        window: Steps to average over.
    """

    def __init__(self, window: int = 50) -> None:
        self.window = window
        self._steps: deque[tuple[float, float, int]] = deque(maxlen=window)
        self._started = 0.0
        self._ended: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a new measurement."""
        self._steps.clear()
        self._ended = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note when the batch has arrived."""
        self._started = perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log speed and waiting time; nothing after the first step."""
        now, last_end = perf_counter(), self._ended
        self._ended = now
        if last_end is None:
            return
        size = len(batch["state"])
        self._steps.append((self._started - last_end, now - self._started, size))
        waits, works, samples = (sum(column) for column in zip(*self._steps, strict=True))
        elapsed = max(waits + works, 1e-9)
        rates = {
            "perf/samples_per_second": trainer.world_size * samples / elapsed,
            "perf/data_wait_fraction": waits / elapsed,
        }
        pl_module.log_dict(rates, batch_size=size)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not count the validation as waiting for data."""
        self._ended = None
