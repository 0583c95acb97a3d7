"""Draws that depend on nothing but the run's seed and where in the run they are made."""

from __future__ import annotations

import os

import numpy as np
import torch


def seed(*position: int) -> None:
    """Seed torch by the run's seed and a position in the run.

    Args:
        position: Step, batch and process, as far as they tell draws apart; a resumed run repeats
            the draws of a position.
    """
    run = int(os.environ.get("PL_GLOBAL_SEED", 0))
    sequence = np.random.SeedSequence([run, *position])
    torch.manual_seed(int(sequence.generate_state(1)[0]))
