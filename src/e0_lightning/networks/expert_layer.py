"""A layer of the action expert: attention and gated MLP, each under adaptive RMSNorm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e0_lightning.networks.attention import PrefixAttention


class ExpertLayer(nn.Module):
    """Attention and gated MLP, each with adaptive RMSNorm and a gated residual."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        mlp: int,
        conditioned: bool = True,
    ) -> None:
        super().__init__()
        self.attention_norm = AdaptiveRMSNorm(width, conditioned=conditioned)
        self.attention = PrefixAttention(width, heads, kv_heads, head_dim)
        self.mlp_norm = AdaptiveRMSNorm(width, conditioned=conditioned)
        self.mlp = GatedMLP(width, mlp)

    def modulate(self, condition: Tensor | None) -> Tensor:
        """Scales, shifts and gates of both norms, ``(R, 6, W)``, from ``(R, W)`` or None.

        Called from outside of :meth:`forward` only: sharding gathers the weights around it.
        """
        return self._modulate(condition)

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over ``(B, T, W)``.

        Args:
            x: ``(B, T, W)``.
            condition: ``(B, W)``, None, or the result of :meth:`modulate` for it, ``(B, 6, W)``.
            rotation: As `PrefixAttention.forward`, with the other arguments and the results.
            keys: Keys.
            values: Values.
            mask: Mask.
        """
        is_modulation = condition is not None and condition.ndim == 3
        modulation = condition if is_modulation else self._modulate(condition)
        assert modulation is not None
        own, other = modulation.chunk(2, dim=1)
        normed, gate = self.attention_norm(x, own)
        update, keys, values = self.attention(normed, rotation, keys, values, mask)
        attended = torch.addcmul(x, gate, update)
        normed, gate = self.mlp_norm(attended, other)
        return torch.addcmul(attended, gate, self.mlp(normed)), keys, values

    def _modulate(self, condition: Tensor | None) -> Tensor:
        norms = (self.attention_norm, self.mlp_norm)
        return torch.cat([norm.modulate(condition) for norm in norms], dim=1)


class AdaptiveRMSNorm(nn.Module):
    """``norm(x)·(1 + scale) + shift`` and a gate, all three linear in the condition (π0.5).

    Args:
        width: Token width W.
        gated: Return a gate of the residual branch.
        conditioned: Build the weights of the condition; without, only the bias is learned.
        eps: Added to the mean square.
    """

    def __init__(
        self, width: int, gated: bool = True, conditioned: bool = True, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.eps = eps
        self.parts = 3 if gated else 2
        bias = torch.zeros(self.parts * width)
        if gated:
            # Open gates at initialization: from scratch, closed ones cost many steps.
            bias[2 * width :] = 1.0
        # The bias has the same name in both cases, so that a checkpoint of one fits the other.
        self.modulation: Any = nn.ParameterDict({"bias": nn.Parameter(bias)})
        if conditioned:
            self.modulation = nn.Linear(width, self.parts * width)
            nn.init.zeros_(self.modulation.weight)
            self.modulation.bias = nn.Parameter(bias)

    def modulate(self, condition: Tensor | None) -> Tensor:
        """Scale, shift and, if gated, gate, ``(R, parts, W)``.

        Args:
            condition: ``(R, W)``; None uses the bias alone, R = 1.
        """
        modulation: Tensor = (
            self.modulation.bias[None] if condition is None else self.modulation(condition)
        )
        return modulation.view(len(modulation), self.parts, -1)

    def forward(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, ...]:
        """Normalize ``(B, T, W)`` under a modulation ``(B, parts, W)``.

        Returns:
            The normalized tokens and, if gated, the gate ``(B, 1, W)``.
        """
        scale, shift, *gate = modulation.unsqueeze(2).unbind(1)
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype)
        return torch.addcmul(shift, normed, 1 + scale), *gate


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
