"""Callbacks that record the cost of a training and the latency of its policy."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from e0_lightning.benchmarks.latency import median_seconds
from e0_lightning.evaluation.results_store import write_atomic
from e0_lightning.policies.observation import select_row
from e0_lightning.types import Observation

CHECKPOINT, TRAINING, VALIDATION = "trained.ckpt", "training.json", "validation.json"


class TrainingRecord(Callback):
    """Writes the final checkpoint, and time and memory of the training.

    Both are kept in the trainer's checkpoints, so that a resumed training is recorded as a whole,
    without the steps that were repeated.

    Args:
        folder: Where ``trained.ckpt`` and ``training.json`` go.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._seconds_before, self._peak = 0.0, 0
        self._started = perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the timer."""
        self._started = perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both files."""
        record = {
            "steps": trainer.global_step,
            "batch_size": getattr(getattr(trainer, "datamodule", None), "batch_size", None),
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "device": device_name(pl_module.device),
            "threads": torch.get_num_threads(),
            **self.state_dict(),
        }
        trainer.save_checkpoint(self.folder / CHECKPOINT)
        if trainer.is_global_zero:
            write_atomic(self.folder / TRAINING, json.dumps(record, indent=2) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Return seconds and peak bytes so far."""
        seconds = self._seconds_before + perf_counter() - self._started
        return {"seconds": seconds, "peak_memory": max(self._peak, peak_memory())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._seconds_before, self._peak = state_dict["seconds"], state_dict["peak_memory"]


class ValidationRecord(Callback):
    """Writes the action error of a validation and the latency of `act` for one observation.

    Args:
        folder: Where ``validation.json`` goes.
        repeats: Timed calls, of which the median is recorded.
    """

    def __init__(self, folder: str, repeats: int = 20) -> None:
        self.folder, self.repeats = Path(folder), repeats
        self._observation: Observation | None = None

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first observation."""
        if self._observation is None and isinstance(batch, dict):
            self._observation = select_row(batch, 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time `act` and write the file."""
        if self._observation is None or not trainer.is_global_zero:
            return
        policy: Any = pl_module
        # In the precision of the evaluation episodes.
        with trainer.precision_plugin.forward_context():
            seconds = median_seconds(
                lambda: policy.act(self._observation), policy.device, self.repeats
            )
        record = {
            "action_l1": float(trainer.callback_metrics["val/action_l1"]),
            "act_seconds": seconds,
        }
        write_atomic(self.folder / VALIDATION, json.dumps(record, indent=2) + "\n")


def peak_memory() -> int:
    """Return the peak bytes of this process: on the GPU, or in main memory without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def device_name(device: torch.device) -> str:
    """Return the name of a device for a report."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
