"""What a training took and what its policy is like to use, written down by the run itself."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from e0_lightning.benchmarks.latency import timed
from e0_lightning.evaluation.results_store import write_whole
from e0_lightning.types import Observation

TRAINED, TRAINING, ACTING = "trained.ckpt", "training.json", "acting.json"


class TrainingRecord(Callback):
    """Leaves a checkpoint and what it took, once a training has come to its end.

    Time and memory go along in the trainer's checkpoints, so that a training that was stopped and
    went on is told of as a whole, less what it had to do again.

    Args:
        folder: Where ``trained.ckpt`` and ``training.json`` go.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._before, self._peak = 0.0, 0
        self._started = perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both files."""
        told = {
            "steps": trainer.global_step,
            "batch_size": getattr(getattr(trainer, "datamodule", None), "batch_size", None),
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "device": device_name(pl_module.device),
            "threads": torch.get_num_threads(),
            **self.state_dict(),
        }
        trainer.save_checkpoint(self.folder / TRAINED)
        if trainer.is_global_zero:
            write_whole(self.folder / TRAINING, json.dumps(told, indent=2) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Seconds and peak bytes so far."""
        seconds = self._before + perf_counter() - self._started
        return {"seconds": seconds, "peak_memory": max(self._peak, peak_memory())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._before, self._peak = state_dict["seconds"], state_dict["peak_memory"]


class ActingRecord(Callback):
    """Leaves the action error of a validation, and how long a decision for one observation takes.

    Args:
        folder: Where ``acting.json`` goes.
        repeats: Decisions, of which the median counts.
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
            self._observation = Observation(
                images={view: frames[:1] for view, frames in batch["images"].items()},
                instruction=batch["instruction"][:1],
                state=batch["state"][:1],
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time decisions, and write the file."""
        if self._observation is None or not trainer.is_global_zero:
            return
        policy: Any = pl_module
        # In the precision that episodes are played in.
        with trainer.precision_plugin.forward_context():
            act = timed(lambda: policy.act(self._observation), policy.device, self.repeats)
        told = {
            "action_error": float(trainer.callback_metrics["val/action_error"]),
            "act_seconds": act,
        }
        write_whole(self.folder / ACTING, json.dumps(told, indent=2) + "\n")


def peak_memory() -> int:
    """Most bytes this process has held at once: of the GPU, or of main memory without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def device_name(device: torch.device) -> str:
    """What a figure was measured on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
