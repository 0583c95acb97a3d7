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
