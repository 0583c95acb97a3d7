"""Numerical safety: precision, and the end of training at the first non-finite value."""

from __future__ import annotations

from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class NumericalChecks(pl.Callback):
    """Logs the gradient norm and learning rate; stops at a non-finite loss or gradient.

    Training stops before the optimizer step, so that the weights and earlier checkpoints remain
    valid. Under ``16-mixed``, whose gradient scaler skips steps with infinite gradients, only the
    loss is checked.
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the precision."""
        check_precision(trainer)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Add up the loss of the batches of a step."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Check loss and gradient norm, before clipping.

        Raises:
            ValueError: If either is not finite.
        """
        norm = gradient_norm(pl_module)
        loss, self._loss = self._loss, None
        is_scaled = trainer.precision == "16-mixed"
        checked = [value for value in (loss, None if is_scaled else norm) if value is not None]
        if not torch.stack([value.float() for value in checked]).isfinite().all():
            raise ValueError(_non_finite(trainer, loss, norm))
        pl_module.log("train/gradient_norm", norm)
        pl_module.log("train/learning_rate", optimizer.param_groups[0]["lr"])


def gradient_norm(module: nn.Module) -> Tensor:
    """L2 norm of all gradients, over the shards of all processes; a scalar."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm: Any = get_total_norm(gradients)
    return cast(Tensor, norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def check_precision(trainer: pl.Trainer) -> None:
    """Refuse a precision that rounds robot units, and warn of one without hardware support.

    Raises:
        ValueError: If all weights and statistics would be in 16 bits.
    """
    if trainer.precision in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision: expected mixed or 32-bit precision, got {trainer.precision}, "
            "which rounds actions and states before normalization. Use bf16-mixed or 16-mixed."
        )
    is_slow = (
        trainer.precision == "bf16-mixed"
        and trainer.strategy.root_device.type == "cpu"
        and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    if is_slow:
        rank_zero_warn(
            "trainer.precision: bf16-mixed on a processor without bfloat16 takes many times as "
            "long as single precision. Set 32-true."
        )


def _non_finite(trainer: pl.Trainer, loss: Tensor | None, norm: Tensor) -> str:
    checkpoint: Any = trainer.checkpoint_callback
    path = checkpoint and (checkpoint.last_model_path or checkpoint.best_model_path)
    resume = f"Resume from {path}" if path else "Start again"
    values = f"{'unknown' if loss is None else f'{loss.item():g}'} and {norm.item():g}"
    return (
        f"training stopped before step {trainer.global_step + 1}: expected a finite loss and "
        f"gradient norm, got {values}. {resume} with a lower model.optimizer.lr or a "
        "trainer.gradient_clip_val, and check the data with `e0 inspect`."
    )
