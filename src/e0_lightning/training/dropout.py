"""Reproducible dropout and stochastic depth, which sample from torch's global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from e0_lightning.random import seeded_generator


@contextmanager
def seeded_dropout(device: torch.device, *key: int | str) -> Iterator[None]:
    """Let dropout inside of the context depend on a position in the run alone.

    Modules of timm and transformers accept no generator. The state of the global generator is
    replaced for the duration of the context, and restored after it.

    Args:
        device: Device of the model.
        key: Position in the run; see `random.derive_seed`.
    """
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.set_rng_state(seeded_generator("dropout", *key).get_state())
        if is_cuda:
            state = seeded_generator("dropout", *key, device=device).get_state()
            torch.cuda.set_rng_state(state, device)
        yield
