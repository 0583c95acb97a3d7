"""Fixed embeddings of times and places: sines and cosines of geometric periods."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from torch import Tensor


def sine_cosine(time: Tensor, width: int, shortest: float = 4e-3, longest: float = 4.0) -> Tensor:
    """Embed times ``(B,)`` as sines and cosines ``(B, width)`` of geometric periods.

    Args:
        time: Times; τ in [0, 1] with the default periods.
        width: Size W of the embedding.
        shortest: Shortest period.
        longest: Longest period.
    """
    # The shortest period of τ repeats 250 times; in float32 its angle would be off by 1e-4.
    precise = torch.float32 if time.device.type == "mps" else torch.float64
    steps = torch.linspace(0, 1, width // 2, device=time.device, dtype=precise)
    periods = shortest * (longest / shortest) ** steps
    angles = 2 * torch.pi * time.to(precise)[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def sine_cosine_grid(height: int, width: int, channels: int) -> Tensor:
    """Fixed 2-D positions ``(height · width, channels)``, half of the channels for each axis.

    Periods are geometric from 6 to 63 cells, so that positions of grids up to 32 cells are unique.
    The remainder of ``channels`` modulo 4 is zero.
    """
    positions = build_sincos2d_pos_embed([height, width], channels // 4 * 4, temperature=10.0)
    return F.pad(positions, (0, channels % 4))
