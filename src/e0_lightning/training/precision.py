"""In which precision a policy is trained, and which processors are slow in it."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn


def check_precision(trainer: pl.Trainer) -> None:
    """Refuse a precision that spoils robot units, and warn of one the processor does not have.

    Raises:
        ValueError: If the whole policy would be in 16 bits, its statistics too.
    """
    if trainer.precision in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision: found {trainer.precision}, which would round actions and states "
            "before they are normalized. Use bf16-mixed or 16-mixed."
        )
    is_slow = (
        trainer.precision == "bf16-mixed"
        and trainer.strategy.root_device.type == "cpu"
        and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    if is_slow:
        rank_zero_warn(
            "trainer.precision: found bf16-mixed on a processor without bfloat16, where it takes "
            "many times as long as single precision. Leave out experiments/setting/bf16.yaml, or "
            "set 32-true."
        )
