"""A test of three episodes in two processes, so that one of them is played in both.

Usage: python -m tests.policies.episodes_run OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from e0_lightning.types import Actor, EpisodeResult

from .conftest import ready_policy, tiny_settings


class Attempt:
    """One episode, which succeeds on the first seed only."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def run(self, actor: Actor) -> list[EpisodeResult]:
        return [EpisodeResult("reach", self.seed, self.seed == 1, 1)]


class Played(pl.Callback):
    """The seeds that each process played."""

    def on_test_start(self, trainer, pl_module):
        self.seeds: list[int] = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.seeds += [each.seed for each in outputs]


def run(out: str) -> None:
    """Play, and write down who played what and the success that was logged."""
    torch.set_num_threads(1)
    played = Played()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[played],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    episodes = [Attempt(seed) for seed in (1, 2, 3)]
    policy = ready_policy(tiny_settings("Regression"))
    (logged,) = trainer.test(policy, DataLoader(episodes, batch_size=None), verbose=False)
    everyone: list[Any] = [None, None]
    torch.distributed.all_gather_object(everyone, played.seeds)
    if trainer.global_rank == 0:
        Path(out).write_text(json.dumps({"played": everyone, **logged}))


if __name__ == "__main__":
    run(sys.argv[1])
