"""Draws that depend on nothing but the run's seed and where in the run they are made."""

from __future__ import annotations

import os
import zlib

import numpy as np
import torch
from lightning.pytorch import Trainer


def generator(trainer: Trainer, batch_idx: int, name: str) -> torch.Generator:
    """A generator on the CPU for what is drawn under a name for one batch.

    The draws depend on Lightning's seed, the step, the batch, the rank and the name alone, so a
    resumed run repeats them and those of one name do not change with the others.
    """
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    place = [trainer.global_step, batch_idx, trainer.global_rank, zlib.crc32(name.encode())]
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
