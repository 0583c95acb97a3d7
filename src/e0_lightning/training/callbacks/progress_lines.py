"""Progress of training as lines of text, where the output is no terminal."""

from __future__ import annotations

import math
import sys
from datetime import timedelta
from time import perf_counter
from typing import Any

import lightning.pytorch as pl


class ProgressLines(pl.Callback):
    """Prints a line every few seconds in place of the progress bar in a log file.

    ``step 120/6000  loss 0.412  215 samples/s  ETA 0:41:10``, and the metrics of each validation.
    Where the output is a terminal, or the trainer has no progress bar, nothing is printed.

    Args:
        interval: Seconds between lines.
    """

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self._is_active = False
        self._start = self._last_line = 0.0
        self._first_step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the place of a progress bar in a log file."""
        bar: Any = trainer.progress_bar_callback
        self._is_active = stage == "fit" and bar is not None and not sys.stdout.isatty()
        self._is_active = self._is_active and trainer.is_global_zero
        if self._is_active:
            bar.disable()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the start time and step."""
        self._start = self._last_line = perf_counter()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print a line if the interval is over, or training ends."""
        now = perf_counter()
        is_last = trainer.global_step == trainer.max_steps
        if self._is_active and (now - self._last_line >= self.interval or is_last):
            self._last_line = now
            print(self._line(trainer, float(outputs["loss"]), now - self._start), flush=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the metrics of a validation."""
        if not self._is_active or trainer.sanity_checking:
            return
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/") and "/dim_" not in name and "/tau_" not in name
        }
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"step {_count(trainer)}  validation  {metrics}", flush=True)

    def _line(self, trainer: pl.Trainer, loss: float, elapsed: float) -> str:
        parts = [f"step {_count(trainer)}", f"loss {loss:.4g}"]
        speed = trainer.callback_metrics.get("perf/samples_per_second")
        if speed is not None:
            parts.append(f"{float(speed):.3g} samples/s")
        steps = trainer.global_step - self._first_step
        remaining = _total(trainer) - trainer.global_step
        if steps > 0 and math.isfinite(remaining):
            parts.append(f"ETA {timedelta(seconds=round(elapsed / steps * remaining))}")
        return "  ".join(parts)


def _count(trainer: pl.Trainer) -> str:
    total = _total(trainer)
    return str(trainer.global_step) + (f"/{total:.0f}" if math.isfinite(total) else "")


def _total(trainer: pl.Trainer) -> float:
    return float(trainer.estimated_stepping_batches)
