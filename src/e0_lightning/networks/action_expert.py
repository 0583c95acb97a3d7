"""The action expert: a small transformer that reads the prefix layer by layer, moved by τ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from e0_lightning.networks.attention import PrefixAttention, rotary
from e0_lightning.networks.prefix_encoder import Prefix


class ActionExpert(nn.Module):
    """Transformer over action tokens with adaptive RMSNorm on τ (π0.5; E0, section 4).

    Each layer attends to ``[prefix, action tokens]`` with the keys and values of one layer of the
    language model; fewer expert layers than language layers read evenly spaced ones.

    Args:
        width: Token width W.
        depth: Layers, at most those of the language model.
        heads: Query heads, a multiple of ``kv_heads``.
        kv_heads: Key and value heads of the language model.
        head_dim: Size of a head of the language model.
        mlp: Width of the gated MLP.
        rope_theta: Base of the language model's rotary positions.
    """

    def __init__(
        self,
        width: int = 1024,
        depth: int = 18,
        heads: int = 8,
        kv_heads: int = 1,
        head_dim: int = 256,
        mlp: int = 4096,
        rope_theta: float = 10_000.0,
    ) -> None:
        super().__init__()
        if heads % kv_heads:
            raise ValueError(f"expert: {heads} heads are no multiple of {kv_heads} kv_heads.")
        self.width, self.depth = width, depth
        self.kv_heads, self.head_dim, self.rope_theta = kv_heads, head_dim, rope_theta
        self.time = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.layers = nn.ModuleList(
            ExpertLayer(width, heads, kv_heads, head_dim, mlp) for _ in range(depth)
        )
        self.norm = AdaptiveRMSNorm(width, gated=False)
        self.gradient_checkpointing = False
        """Keep no layer's activations in training, but compute them again."""

    def forward(self, tokens: Tensor, tau: Tensor, prefix: Prefix, causal: bool = False) -> Tensor:
        """Refine action tokens, ``(B, T, W)``; see :meth:`extend`."""
        return self.extend(tokens, tau, prefix, causal)[0]

    def extend(
        self, tokens: Tensor, tau: Tensor, prefix: Prefix, causal: bool = False
    ) -> tuple[Tensor, Prefix]:
        """Refine action tokens, and append them to the prefix for tokens that follow.

        What follows reads the longer prefix and is not read by it: so one token after another is
        decoded without computing the earlier ones again, and one block of tokens sees another that
        does not see it.

        Args:
            tokens: ``(B, T, W)``.
            tau: ``(B,)`` in [0, 1].
            prefix: Encoded observations, or what this method returned for the tokens before.
            causal: Let a token see itself and those before it, not all T.

        Returns:
            Refined tokens ``(B, T, W)`` and a prefix that ends with them, of ``depth`` layers.

        Raises:
            ValueError: If the prefix's layers, heads, head size or rotary base do not fit this
                expert's.
        """
        self._require_fit(prefix)
        batch, length, _ = tokens.shape
        condition = self.time(sine_cosine(tau, self.width).to(tokens.dtype))
        positions = prefix.lengths[:, None] + torch.arange(length, device=tokens.device)
        turn = rotary(positions, self.head_dim, self.rope_theta)
        itself = torch.ones(batch, length, dtype=torch.bool, device=tokens.device)
        present = torch.cat([prefix.mask, itself], dim=1)
        mask = present[:, None, None].expand(-1, 1, length, -1)
        if causal:
            mask = mask.tril(diagonal=prefix.mask.shape[1])
        longer = []
        for layer, index in zip(self.layers, self._sources(len(prefix.keys)), strict=True):
            seen = (tokens, condition, turn, prefix.keys[index], prefix.values[index], mask)
            tokens, *grown = (
                checkpoint(layer, *seen, use_reentrant=False)
                if self.gradient_checkpointing and self.training
                else layer(*seen)
            )
            longer.append(grown)
        keys, values = zip(*longer, strict=True)
        return self.norm(tokens, condition)[0], Prefix(keys, values, present, self.rope_theta)

    def _sources(self, layers: int) -> list[int]:
        """Language layer that each expert layer reads, the last one by the last."""
        return [((index + 1) * layers) // self.depth - 1 for index in range(self.depth)]

    def _require_fit(self, prefix: Prefix) -> None:
        _, kv_heads, _, head_dim = prefix.keys[0].shape
        found = {"layers": len(prefix.keys), "kv_heads": kv_heads, "head_dim": head_dim}
        fits = self.depth <= len(prefix.keys) and (kv_heads, head_dim) == (
            self.kv_heads,
            self.head_dim,
        )
        if not fits:
            raise ValueError(
                f"The language model has {found}; the expert has depth {self.depth}, kv_heads "
                f"{self.kv_heads}, head_dim {self.head_dim}. Give the expert the same kv_heads and "
                "head_dim and at most as many layers."
            )
        if prefix.rope_theta not in (None, self.rope_theta):
            raise ValueError(
                f"The language model turns its keys with a rotary base of {prefix.rope_theta:g}, "
                f"the expert its queries with {self.rope_theta:g}. Set expert.rope_theta to the "
                "former."
            )


class ExpertLayer(nn.Module):
    """Attention and gated MLP, each normalized, moved and gated by the condition."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, mlp: int) -> None:
        super().__init__()
        self.attention_norm = AdaptiveRMSNorm(width)
        self.attention = PrefixAttention(width, heads, kv_heads, head_dim)
        self.mlp_norm = AdaptiveRMSNorm(width)
        self.mlp = GatedMLP(width, mlp)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        turn: tuple[Tensor, Tensor],
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over ``(B, T, W)``; arguments and results as `PrefixAttention.forward`."""
        normed, gate = self.attention_norm(x, condition)
        heard, keys, values = self.attention(normed, turn, keys, values, mask)
        attended: Tensor = gate * heard + x
        normed, gate = self.mlp_norm(attended, condition)
        return attended + gate * self.mlp(normed), keys, values


class AdaptiveRMSNorm(nn.Module):
    """``norm(x)·(1 + scale) + shift`` and a gate, all three linear in the condition (π0.5).

    Args:
        width: Token width W.
        gated: Also give the gate of the residual branch.
    """

    def __init__(self, width: int, gated: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.parts = 3 if gated else 2
        self.modulation = nn.Linear(width, self.parts * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        if gated:
            # An open gate at the start: from scratch, closed ones cost many steps.
            nn.init.ones_(self.modulation.bias[2 * width :])

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise ``(B, T, W)`` under a condition ``(B, W)``; returns it and the gate."""
        scale, shift, *gate = self.modulation(condition).unsqueeze(1).chunk(self.parts, dim=-1)
        variance = x.float().square().mean(dim=-1, keepdim=True)
        normed = (x.float() * torch.rsqrt(variance + self.eps)).to(x.dtype)
        return normed * (1 + scale) + shift, gate[0] if gate else torch.ones_like(scale)


class GatedMLP(nn.Module):
    """``down(gelu(gate(x))·up(x))``, Gemma's feed-forward layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(B, T, W)``."""
        out: Tensor = self.down_proj(
            F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x)
        )
        return out


def sine_cosine(tau: Tensor, width: int, shortest: float = 4e-3, longest: float = 4.0) -> Tensor:
    """Embed τ ``(B,)`` in [0, 1] as sines and cosines ``(B, width)`` of geometric periods."""
    # The shortest period turns 250 times; in single precision its angle would err by 1e-4.
    precise = torch.float32 if tau.device.type == "mps" else torch.float64
    steps = torch.linspace(0, 1, width // 2, device=tau.device, dtype=precise)
    periods = shortest * (longest / shortest) ** steps
    angles = 2 * torch.pi * tau.to(precise)[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()
