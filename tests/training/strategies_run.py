"""A training run for the tests of strategies, started once for each process group.

Usage: strategies_run.py STRATEGY STEPS OUT [RESUMED]
"""

import sys
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy
from e0_lightning.training.sharding import ShardedAveraging
from tiny_policy import SPEC, make_batch, tiny_settings

STRATEGIES: dict[str, Any] = {
    "one": lambda: "auto",
    # Vision tokens may not depend on all weights of a backbone.
    "ddp": lambda: "ddp_find_unused_parameters_true",
    "fsdp": lambda: ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
    ),
}


class Halves(pl.LightningDataModule):
    """Batches of four, divided among the processes."""

    spec = SPEC

    def action_chunks(self):
        batch = make_batch()
        yield batch["actions"], batch["state"], batch["valid"]

    def train_dataloader(self):
        size = 4 // self.trainer.world_size
        first = size * self.trainer.global_rank
        batches = [share(make_batch(seed=seed), first, size) for seed in range(8)]
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self):
        return DataLoader([make_batch()], batch_size=None)


def share(batch, first, size):
    """The observations of a batch for one process."""
    if isinstance(batch, dict):
        return {key: share(value, first, size) for key, value in batch.items()}
    return batch[first : first + size]


class Losses(pl.Callback):
    """The loss of the global batch, step by step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss = trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")
        self.values.append(float(loss))


def run(strategy: str, steps: int, out: str, resumed: str | None = None) -> Policy:
    """Train for ``steps`` steps in all, and write the weights and the losses."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tuned = {"fine_tuning": {"gradient_checkpointing": True, "lora": {"vision": 2}}}
    policy = build_policy(tiny_settings("Regression", **tuned))
    losses = Losses()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1 if strategy == "one" else 2,
        strategy=STRATEGIES[strategy](),
        max_steps=steps,
        gradient_clip_val=0.1,
        val_check_interval=1,
        use_distributed_sampler=False,
        callbacks=[ShardedAveraging(decay=0.5), losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(policy, datamodule=Halves(), ckpt_path=resumed, weights_only=True)
    trainer.save_checkpoint(out)
    if trainer.global_rank == 0:
        torch.save(losses.values, f"{out}.losses")
    return policy


if __name__ == "__main__":
    strategy, steps, out, *resumed = sys.argv[1:]
    run(strategy, int(steps), out, *resumed)
