"""Attention of the action expert over the prefix and the action tokens, with rotary positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotary(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of rotary positions, in the layout of Hugging Face decoders.

    Args:
        positions: ``(B, T)`` integers.
        head_dim: Size of a head, even.
        theta: Base of the periods, the language model's.

    Returns:
        Two tensors ``(B, 1, T, head_dim)``, float32.
    """
    exponents = (
        torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    )
    angles = positions[:, None, :, None].float() * theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys ``(B, heads, T, head_dim)`` by their positions, in float32."""
    first, second = x.float().chunk(2, dim=-1)
    quarter = torch.cat([-second, first], dim=-1)
    return (x.float() * cos + quarter * sin).to(x.dtype)


class PrefixAttention(nn.Module):
    """Grouped-query attention of T action tokens over ``[prefix, action tokens]``.

    Args:
        width: Token width W.
        heads: Query heads.
        kv_heads: Key and value heads of the language model; divides ``heads``.
        head_dim: Head size of the language model.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            x: ``(B, T, W)``.
            rotation: Rotary cosine and sine of the T tokens.
            keys: Keys of the prefix ``(B, kv_heads, P, head_dim)``, already rotated; or with room
                for those of the action tokens after them, which are written there.
            values: Values of the prefix, same shape.
            mask: ``(B, 1, T, P + T)``: bool, true where attention is allowed, or added to scores.

        Returns:
            ``(B, T, W)``, and the keys and values of prefix and action tokens,
            ``(B, kv_heads, P + T, head_dim)``.
        """
        batch, length, _ = x.shape

        def split(projection: nn.Linear, heads: int) -> Tensor:
            out: Tensor = projection(x)
            return out.view(batch, length, heads, self.head_dim).transpose(1, 2)

        query = rotate(split(self.q_proj, self.heads), *rotation)
        key = rotate(split(self.k_proj, self.kv_heads), *rotation)
        value = split(self.v_proj, self.kv_heads)
        keys, values = (_join(*pair, mask.shape[-1]) for pair in ((keys, key), (values, value)))
        attended = attend(query, keys, values, mask)
        return self.o_proj(attended.transpose(1, 2).flatten(2)), keys, values


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Grouped-query attention ``(B, heads, T, head_dim)``, in the type of the query.

    On a CPU it is computed in float32: there PyTorch's fused kernel goes backward in bfloat16
    several times as slowly.

    Args:
        query: ``(B, heads, T, head_dim)``.
        keys: ``(B, kv_heads, S, head_dim)``; ``kv_heads`` divides ``heads``.
        values: The same shape.
        mask: ``(B, 1, T, S)``, as in `PrefixAttention.forward`.
    """
    if query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16):
        wide_mask = mask.float() if mask.is_floating_point() else mask
        with torch.autocast("cpu", enabled=False):
            attended = attend(query.float(), keys.float(), values.float(), wide_mask)
        return attended.to(query.dtype)
    return F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, enable_gqa=query.shape[1] != keys.shape[1]
    )


def _join(past: Tensor, own: Tensor, length: int) -> Tensor:
    """Keys or values ``(B, kv_heads, length, head_dim)`` of the prefix and the action tokens."""
    if past.shape[2] < length:
        return torch.cat([past.to(own.dtype), own], dim=2)
    past[:, :, -own.shape[2] :] = own
    return past


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Type of the results of a linear layer with this weight, under autocast or without."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
