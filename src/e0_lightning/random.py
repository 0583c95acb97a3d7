"""Reproducible random numbers: generators derived from a seed and a position, and samples.

No code of this package seeds torch's global generator, except within `seed_global_generator`, and
it is used only where a caller passes no generator.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


class GivenSamples:
    """Samples from outside in place of a generator's, such as the inputs of an exported graph.

    Args:
        take: Called for each sample with its distribution, ``normal`` or ``uniform``, and shape.
    """

    def __init__(self, take: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        self.take = take


Generator = torch.Generator | Sequence[torch.Generator] | GivenSamples | None
"""One generator for a whole tensor, one per row (dimension 0), samples given beforehand, or None
for torch's global one."""


def derive_seed(*key: int | str) -> int:
    """Derive a seed from the run's seed and a position in the run.

    Args:
        key: Purpose and position of the samples, such as ``("train", step, rank)``.

    Returns:
        A seed in [0, 2^63); equal keys give equal seeds in every process.
    """
    run = int(os.environ.get("PL_GLOBAL_SEED", 0))  # set by Lightning's seed_everything
    parts = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    state = np.random.SeedSequence([run, *parts]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def seeded_generator(*key: int | str, device: torch.device | str | None = None) -> torch.Generator:
    """Create a generator from the run's seed and a position in the run; see `derive_seed`."""
    return torch.Generator(device or "cpu").manual_seed(derive_seed(*key))


@contextmanager
def seed_global_generator(device: torch.device, *key: int | str) -> Iterator[None]:
    """Let code that accepts no generator depend on a position in the run alone.

    The state of torch's global generator is replaced for the duration of the context, and restored
    after it.

    Args:
        device: Device on which the code samples, besides the CPU.
        key: Purpose and position of the samples; see `derive_seed`.
    """
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.set_rng_state(seeded_generator(*key).get_state())
        if is_cuda:
            torch.cuda.set_rng_state(seeded_generator(*key, device=device).get_state(), device)
        yield


def sample_normal(
    shape: Sequence[int],
    generator: Generator = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Sample standard normal float32 values.

    They are sampled on the generator's device and then moved, so that a generator on the CPU gives
    the same values to a model on any device.

    Args:
        shape: Shape of the result.
        generator: One generator, one per row of the result, or None for torch's global one.
        device: Device of the result; None is the generator's device, or the CPU.

    Raises:
        ValueError: If there are generators per row, but not one for each.
    """
    if isinstance(generator, GivenSamples):
        return generator.take("normal", tuple(shape)).clone()
    if isinstance(generator, Sequence):
        return _by_row(sample_normal, shape, generator, device)
    source = device if generator is None else generator.device
    values = torch.randn(tuple(shape), generator=generator, device=source)
    return values.to(device or source or "cpu")


def sample_uniform(
    shape: Sequence[int],
    generator: Generator = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Sample float32 values from [0, 1); arguments as those of `sample_normal`."""
    if isinstance(generator, GivenSamples):
        return generator.take("uniform", tuple(shape)).clone()
    if isinstance(generator, Sequence):
        return _by_row(sample_uniform, shape, generator, device)
    source = device if generator is None else generator.device
    values = torch.rand(tuple(shape), generator=generator, device=source)
    return values.to(device or source or "cpu")


def sample_tokens(logits: Tensor, temperature: float = 1.0, generator: Generator = None) -> Tensor:
    """Sample tokens from ``softmax(logits / T)`` by inverting the cumulative distribution.

    Args:
        logits: ``(B, …, K)``.
        temperature: T; 0 takes the most likely tokens without randomness.
        generator: One generator, one per row, or None for torch's global one.

    Returns:
        ``(B, …)`` int64 in [0, K).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = (logits / temperature).softmax(dim=-1).cumsum(dim=-1)
    uniform = sample_uniform((*logits.shape[:-1], 1), generator, logits.device)
    tokens = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
    return tokens.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _by_row(
    sample: Callable[..., Tensor],
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    device: torch.device | str | None,
) -> Tensor:
    if len(generators) != shape[0]:
        raise ValueError(
            f"expected one generator for each of {shape[0]} rows, got {len(generators)}."
        )
    return torch.stack([sample(shape[1:], generator, device) for generator in generators])
