"""Random draws that a generator decides, wherever the generator and the result live."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_normal(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw standard normal float32 values, on the generator's device first.

    So a generator on the CPU gives the same values to a model on any device.

    Args:
        shape: Shape of the result.
        generator: What decides the values; None is torch's own.
        device: Where the result goes; None is the generator's device, or the CPU.
    """
    source = device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=source).to(
        device or source or "cpu"
    )


def draw_uniform(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw float32 values from [0, 1), as ``draw_normal`` draws normal ones."""
    source = device if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=source).to(
        device or source or "cpu"
    )


def draw_tokens(
    logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Draw tokens by inverting the distribution function of ``p^(1/T)``.

    Args:
        logits: ``(…, K)``.
        temperature: T; 0 takes the most likely tokens, without a draw.
        generator: What decides the draw; None is torch's own.

    Returns:
        ``(…)`` int64 in [0, K).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    rising = (logits / temperature).softmax(dim=-1).cumsum(dim=-1)
    lot = draw_uniform((*logits.shape[:-1], 1), generator, logits.device)
    tokens = torch.searchsorted(rising, lot * rising[..., -1:], right=True)
    return tokens.squeeze(-1).clamp(max=logits.shape[-1] - 1)
