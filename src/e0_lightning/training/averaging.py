"""Averaged weights of a policy that is spread over processes."""

from __future__ import annotations

import itertools
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from e0_lightning.training.sharding import shard


class ShardedAveraging(EMAWeightAveraging):
    """Lightning's moving average of the weights, spread as the weights are.

    Its checkpoints are those of ``EMAWeightAveraging``: either resumes the other's, and under any
    strategy. Without sharding it is the same.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Spread the averages, which were copied from the policy while it was whole."""
        if pl_module.device_mesh is not None:
            shard(self._averages, pl_module.device_mesh["data_parallel"])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the averages as the weights, gathered, and the weights beside them."""
        if pl_module.device_mesh is None or self._average_model is None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = get_model_state_dict(self._averages, options=whole)
        checkpoint["averaging_state"] = {"n_averaged": self._average_model.n_averaged}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the averages from the policy, which has just loaded them, then load its weights."""
        sharded = pl_module.device_mesh is not None and self._average_model is not None
        if not sharded or "current_model_state" not in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        averages = itertools.chain(self._averages.parameters(), self._averages.buffers())
        loaded = itertools.chain(pl_module.parameters(), pl_module.buffers())
        with torch.no_grad():
            for average, value in zip(averages, loaded, strict=True):
                average.copy_(value)
        cast(Any, self._average_model).n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(pl_module, checkpoint["current_model_state"], options=whole)

    @property
    def _averages(self) -> pl.LightningModule:
        return cast(pl.LightningModule, cast(Any, self._average_model).module)
