"""The action expert: a transformer over action tokens that attends to the prefix in each layer."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from e0_lightning.networks.attention import PrefixAttention, rotary
from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.positions import sine_cosine
from e0_lightning.networks.prefix_encoder import Prefix


class ActionExpert(nn.Module):
    """Transformer over action tokens, conditioned on τ (π0, π0.5; E0, section 4).

    Each layer attends to ``[prefix, action tokens]`` with the keys and values of one layer of the
    language model; fewer expert layers than language layers use evenly spaced ones. A state that
    the prefix leaves to the expert is a token before the action tokens, which attends to none of
    them (π0). The layers are built by :meth:`connect`, which takes the sizes left None from the
    language model.

    Args:
        width: Token width W.
        depth: Layers, at most those of the language model.
        heads: Query heads, a multiple of ``kv_heads``.
        mlp: Width of the gated MLP.
        kv_heads: Key and value heads of the language model.
        head_dim: Head size of the language model.
        rope_theta: Base of the language model's rotary positions.
        time_conditioning: How τ enters: by ``adaptive_norm``, RMSNorm whose scale, shift and gate
            are linear in an embedding of τ (π0.5), or by ``concat_mlp``, an MLP of each action
            token and the sinusoidal embedding of τ side by side (π0).
    """

    def __init__(
        self,
        width: int = 1024,
        depth: int = 18,
        heads: int = 8,
        mlp: int = 4096,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        rope_theta: float | None = None,
        time_conditioning: Literal["adaptive_norm", "concat_mlp"] = "adaptive_norm",
    ) -> None:
        super().__init__()
        self.width, self.depth, self.heads, self.mlp = width, depth, heads, mlp
        self.kv_heads, self.head_dim, self.rope_theta = kv_heads, head_dim, rope_theta
        self.time_conditioning = time_conditioning
        self.layers = nn.ModuleList()
        self.gradient_checkpointing = False
        """Recompute activations in the backward pass instead of keeping them."""

    def connect(
        self, language: LanguageModel, diffusion_time: bool = True, state_dim: int = 0
    ) -> Self:
        """Build the layers for a language model, and return this object.

        Args:
            language: Its sizes are taken where they are None here, and checked where given.
            diffusion_time: Build the weights that condition the layers on τ. Set false in a policy
                without diffusion: distributed training stops at weights without a gradient.
            state_dim: Dimensions of the state that the encoder leaves to the expert, its
                ``suffix_state_dim``.

        Raises:
            ValueError: If a given size differs from the language model's, it has too few layers, or
                ``heads`` is no multiple of its ``kv_heads``.
        """
        for name in ("kv_heads", "head_dim", "rope_theta"):
            own, expected = getattr(self, name), getattr(language, name)
            if None not in (own, expected) and own != expected:
                raise ValueError(
                    f"expert.{name}: expected {expected:g} as in the language model, got {own:g}. "
                    "Leave it out."
                )
            if own is None:
                setattr(self, name, expected)
        if self.depth > language.depth:
            raise ValueError(
                f"expert.depth: expected at most the {language.depth} layers of the language "
                f"model, got {self.depth}."
            )
        assert self.kv_heads is not None
        assert self.head_dim is not None
        if self.heads % self.kv_heads:
            raise ValueError(
                f"expert.heads: expected a multiple of the language model's {self.kv_heads} "
                f"kv_heads, got {self.heads}."
            )
        if self.rope_theta is None:
            self.rope_theta = 10_000.0
        if not self.layers:
            self._build(self.kv_heads, self.head_dim, diffusion_time, state_dim)
        return self

    def _build(self, kv_heads: int, head_dim: int, diffusion_time: bool, state_dim: int) -> None:
        width = self.width
        conditioned = diffusion_time and self.time_conditioning == "adaptive_norm"
        self.time = (
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
            if conditioned
            else None
        )
        self.action_time = (
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
            if diffusion_time and not conditioned
            else None
        )
        self.state = nn.Linear(state_dim, width) if state_dim else None
        for _ in range(self.depth):
            layer = ExpertLayer(width, self.heads, kv_heads, head_dim, self.mlp, conditioned)
            self.layers.append(layer)
        self.norm = AdaptiveRMSNorm(width, gated=False, conditioned=conditioned)

    def forward(
        self, tokens: Tensor, prefix: Prefix, tau: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Refine action tokens, ``(B, T, W)``; see :meth:`extend`."""
        return self.extend(tokens, prefix, tau, causal)[0]

    def extend(
        self, tokens: Tensor, prefix: Prefix, tau: Tensor | None = None, causal: bool = False
    ) -> tuple[Tensor, Prefix]:
        """Refine action tokens, and append them to the prefix for later tokens.

        Later tokens attend to the longer prefix and not the other way round. So tokens are decoded
        one by one without recomputing the earlier ones, and one block of tokens attends to another
        that does not attend to it.

        Args:
            tokens: ``(B, T, W)``.
            prefix: Encoded observations, or the result of this method for the tokens before.
            tau: Diffusion time ``(B,)`` in [0, 1]; None is no diffusion time.
            causal: Let a token attend to itself and those before it only, not to all T.

        Returns:
            Refined tokens ``(B, T, W)`` and a prefix that ends with them, of ``depth`` layers.

        Raises:
            ValueError: If the expert is not connected, was built without diffusion time or state
                token but τ or a state is given, or the prefix has other layers, heads, head size or
                rotary base.
        """
        rope_theta = self._check(prefix, tau)
        num_actions = tokens.shape[1]
        tokens, condition = self._condition(tokens, tau)
        if self.state is not None and prefix.state is not None:
            state = self.state(prefix.state.to(self.state.weight.dtype)).unsqueeze(1)
            tokens = torch.cat([state.to(tokens.dtype), tokens], dim=1)
        batch, length, _ = tokens.shape
        positions = prefix.lengths[:, None] + torch.arange(length, device=tokens.device)
        rotation = rotary(positions, prefix.keys[0].shape[-1], rope_theta)
        own = torch.ones(batch, length, dtype=torch.bool, device=tokens.device)
        present = torch.cat([prefix.mask, own], dim=1)
        mask = present[:, None, None].expand(-1, 1, length, -1)
        if causal:
            mask = mask.tril(diagonal=prefix.mask.shape[1])
        elif length > num_actions:
            mask = mask.clone()
            mask[:, :, 0, -num_actions:] = False
        extended = []
        for layer, index in zip(self.layers, self._sources(len(prefix.keys)), strict=True):
            inputs = (tokens, condition, rotation, prefix.keys[index], prefix.values[index], mask)
            tokens, *keys_values = (
                checkpoint(layer, *inputs, use_reentrant=False)
                if self.gradient_checkpointing and self.training
                else layer(*inputs)
            )
            extended.append(keys_values)
        keys, values = zip(*extended, strict=True)
        refined: Tensor = self.norm(tokens, condition)[0]
        return refined[:, -num_actions:], Prefix(keys, values, present, rope_theta)

    def _condition(self, tokens: Tensor, tau: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Action tokens ``(B, T, W)``, and the condition ``(B, W)`` of adaptive norms, if any."""
        if tau is None:
            return tokens, None
        embedded = sine_cosine(tau, self.width).to(tokens.dtype)
        if self.time is not None:
            return tokens, self.time(embedded)
        assert self.action_time is not None
        beside = embedded.unsqueeze(1).expand_as(tokens)
        return self.action_time(torch.cat([tokens, beside], dim=-1)), None

    def _sources(self, layers: int) -> list[int]:
        """Language layer that each expert layer attends to; the last one to the last."""
        return [((index + 1) * layers) // self.depth - 1 for index in range(self.depth)]

    def _check(self, prefix: Prefix, tau: Tensor | None) -> float:
        """Check the inputs, and return the rotary base."""
        if self.rope_theta is None or not self.layers:
            raise ValueError(
                "ActionExpert: not connected yet. Call expert.connect(encoder.language) first."
            )
        if tau is not None and self.time is None and self.action_time is None:
            raise ValueError(
                "tau: expected None, got a tensor. Connect the expert with diffusion_time=True."
            )
        if prefix.state is not None and self.state is None:
            raise ValueError(
                "prefix.state: expected None, got a state for a token of the expert. Connect the "
                "expert with state_dim=encoder.suffix_state_dim."
            )
        _, kv_heads, _, head_dim = prefix.keys[0].shape
        own = (self.kv_heads, self.head_dim)
        if self.depth > len(prefix.keys) or own != (kv_heads, head_dim):
            raise ValueError(
                f"prefix: expected at least {self.depth} layers of {own[0]} kv_heads and head_dim "
                f"{own[1]}, got {len(prefix.keys)} layers of {kv_heads} kv_heads and head_dim "
                f"{head_dim}. Connect the expert to the language model of the encoder."
            )
        if prefix.rope_theta not in (None, self.rope_theta):
            raise ValueError(
                f"prefix: expected keys of rotary base {self.rope_theta:g}, got "
                f"{prefix.rope_theta:g}. Connect the expert to the language model of the encoder."
            )
        return self.rope_theta


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

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over ``(B, T, W)``; arguments and results as `PrefixAttention.forward`."""
        normed, gate = self.attention_norm(x, condition)
        update, keys, values = self.attention(normed, rotation, keys, values, mask)
        attended: Tensor = gate * update + x
        normed, gate = self.mlp_norm(attended, condition)
        return attended + gate * self.mlp(normed), keys, values


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

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalize ``(B, T, W)`` under a condition ``(B, W)``; None uses the bias alone.

        Returns:
            The normalized tokens and the gate, ones if not gated.
        """
        modulation: Tensor = (
            self.modulation.bias[None] if condition is None else self.modulation(condition)
        )
        scale, shift, *gate = modulation.unsqueeze(1).chunk(self.parts, dim=-1)
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
