"""Weights sharded over processes (FSDP), and their exponential moving average."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from e0_lightning.training.finetuning import NETWORKS, repeated_blocks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

ENTRY_POINTS = (
    "training_step",
    "validation_step",
    "test_step",
    "predict_step",
    "act",
    "sample_actions",
)
"""Methods called from outside, which gather the weights that they need."""


def shard(policy: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the weights of a policy over the processes of a mesh.

    Layers of the expert and blocks of the vision backbone are gathered one at a time; all else,
    the language model too, at once: keys and values leave its layers through the cache, past the
    hooks that would gather a layer's weights again for the backward pass.

    Args:
        policy: With its weights loaded, equal in every process, as from the same seed; a second
            call changes nothing.
        mesh: One-dimensional mesh of the processes that share a batch.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if isinstance(policy, FSDPModule):
        return
    for part in ("expert", "vision"):
        for block in repeated_blocks(policy.get_submodule(NETWORKS[part])):
            fully_shard(block, mesh=mesh)
            if part == "expert":
                register_fsdp_forward_method(block, "modulate")
    # Kept whole after a forward pass, they would be stale once averaged weights are swapped in.
    fully_shard(policy, mesh=mesh, reshard_after_forward=True)
    for name in ENTRY_POINTS:
        register_fsdp_forward_method(policy, name)


class ShardedAveraging(EMAWeightAveraging):
    """Lightning's moving average of the weights, sharded as the weights are.

    Its checkpoints are those of ``EMAWeightAveraging``: either resumes the other's, and under any
    strategy. Without sharding it is the same.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the policy before it is sharded."""
        mesh, pl_module._device_mesh = pl_module._device_mesh, None
        try:
            super().setup(trainer, pl_module, stage)
        finally:
            pl_module._device_mesh = mesh

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shard the averages."""
        if pl_module.device_mesh is not None:
            shard(self._averages, pl_module.device_mesh["data_parallel"])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the averages as the weights, gathered, and the current weights beside them."""
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
        """Copy the averages from the policy, which has loaded them, then load its weights."""
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
