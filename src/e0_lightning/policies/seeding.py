"""Draws that depend on nothing but the run's seed and where in the run they are made."""

from __future__ import annotations

import os

import numpy as np
import torch


def seed(position: int, rank: int) -> None:
    """Seed torch by (run seed, position, rank).

    Args:
        position: Step or batch; a resumed run repeats its draws.
        rank: Process, each of which draws its own.
    """
    run = int(os.environ.get("PL_GLOBAL_SEED", 0))
    sequence = np.random.SeedSequence([run, position, rank])
    torch.manual_seed(int(sequence.generate_state(1)[0]))
