"""The action expert: a transformer over action tokens that attends to the prefix in each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from e0_lightning.networks.attention import compute_dtype, rotary
from e0_lightning.networks.expert_cache import ExpertCache
from e0_lightning.networks.expert_layer import AdaptiveRMSNorm, ExpertLayer
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
        self,
        tokens: Tensor,
        prefix: Prefix | ExpertCache,
        tau: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Refine action tokens, ``(B, T, W)``; see :meth:`extend`."""
        return self.extend(tokens, prefix, tau, causal)[0]

    def extend(
        self,
        tokens: Tensor,
        prefix: Prefix | ExpertCache,
        tau: Tensor | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, Prefix]:
        """Refine action tokens, and append them to the prefix for later tokens.

        Later tokens attend to the longer prefix and not the other way round. So tokens are decoded
        one by one without recomputing the earlier ones, and one block of tokens attends to another
        that does not attend to it.

        Args:
            tokens: ``(B, T, W)``.
            prefix: Encoded observations, the result of this method for the tokens before, or a
                cache of :meth:`prepare`.
            tau: Diffusion time ``(B,)`` in [0, 1]; None is no diffusion time.
            causal: Let a token attend to itself and those before it only, not to all T; not with a
                cache.

        Returns:
            Refined tokens ``(B, T, W)`` and a prefix that ends with them, of ``depth`` layers.

        Raises:
            ValueError: If the expert is not connected, was built without diffusion time or state
                token but τ or a state is given, or the prefix has other layers, heads, head size or
                rotary base.
            RuntimeError: If τ is not among those that a cache was prepared for.
        """
        conditions: Sequence[Tensor | None]
        if isinstance(prefix, ExpertCache):
            cache, modulation = prefix, prefix.modulation_at(tau)
            conditions, final = modulation[:, :-2].chunk(self.depth, dim=1), modulation[:, -2:]
        else:
            cache = self._attend(self._append_state(prefix), tokens.shape[1], tau, causal)
            condition = self._condition(tau, tokens.dtype)
            conditions, final = [condition] * self.depth, self.norm.modulate(condition)
        tokens = self._join_time(tokens, tau)
        extended = []
        for layer, own, *past in zip(
            self.layers, conditions, cache.keys, cache.values, strict=True
        ):
            inputs = (tokens, own, cache.rotation, *past, cache.mask)
            tokens, *keys_values = (
                checkpoint(layer, *inputs, use_reentrant=False)
                if self.gradient_checkpointing and self.training
                else layer(*inputs)
            )
            extended.append(keys_values)
        keys, values = zip(*extended, strict=True)
        (refined,) = self.norm(tokens, final)
        return refined, Prefix(keys, values, cache.present, self.rope_theta)

    @torch.no_grad()
    def prepare(
        self, prefix: Prefix, lengths: Sequence[int], taus: Tensor | None = None
    ) -> list[ExpertCache]:
        """Compute what is equal in all passes over a prefix.

        The modulation of all τ is computed at once. Keys and values of the prefix are copied once,
        with room for those of the action tokens, which every pass overwrites; so passes have no
        gradient, and a block of tokens is passed before the next one, which attends to it.

        Args:
            prefix: Encoded observations.
            lengths: Tokens T of each block. A block attends to the prefix, the blocks before it and
                itself.
            taus: Noise levels ``(N,)`` of the passes; None is no diffusion time.

        Returns:
            A cache for each block, in place of the prefix.

        Raises:
            ValueError: As in :meth:`extend`.
        """
        total, taus = sum(lengths), None if taus is None else taus.to(prefix.mask.device)
        whole = self._attend(self._append_state(prefix), total, taus)
        dtype = compute_dtype(next(self.parameters()))
        keys, values = (
            tuple(F.pad(each.to(dtype), (0, 0, 0, total)) for each in per_layer)
            for per_layer in (whole.keys, whole.values)
        )
        # Added to scores, as kernels would convert a bool mask in every layer of every pass.
        mask = torch.zeros_like(whole.mask, dtype=dtype).masked_fill(~whole.mask, -torch.inf)
        condition = self._condition(taus, dtype)
        norms = [*self.layers, self.norm]
        modulation = torch.cat([norm.modulate(condition) for norm in norms], dim=1)
        if taus is not None:  # one row for all of them where norms have no condition
            modulation = modulation.expand(len(taus), -1, -1)
        return ExpertCache(
            keys, values, whole.rotation, mask, whole.present, modulation, taus
        ).split(lengths)

    def _attend(
        self, prefix: Prefix, length: int, tau: Tensor | None, causal: bool = False
    ) -> ExpertCache:
        """What the layers attend to, and where, for T tokens after a prefix."""
        rope_theta = self._check(prefix, tau)
        positions = prefix.lengths[:, None] + torch.arange(length, device=prefix.mask.device)
        rotation = rotary(positions, prefix.keys[0].shape[-1], rope_theta)
        present = F.pad(prefix.mask, (0, length), value=True)
        mask = present[:, None, None].expand(-1, 1, length, -1)
        if causal:
            mask = mask.tril(diagonal=prefix.mask.shape[1])
        sources = self._sources(len(prefix.keys))
        keys, values = (
            tuple(each[index] for index in sources) for each in (prefix.keys, prefix.values)
        )
        return ExpertCache(keys, values, rotation, mask, present)

    def _condition(self, tau: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Embedding of τ ``(R, W)`` that conditions the norms."""
        if tau is None or self.time is None:
            return None
        embedded: Tensor = self.time(sine_cosine(tau, self.width).to(dtype))
        return embedded

    def _join_time(self, tokens: Tensor, tau: Tensor | None) -> Tensor:
        """Action tokens ``(B, T, W)`` that know τ ``(B,)``, by an MLP of both (π0)."""
        if tau is None or self.action_time is None:
            return tokens
        embedded = sine_cosine(tau, self.width).to(tokens.dtype)
        joined = torch.cat([tokens, embedded.unsqueeze(1).expand_as(tokens)], dim=-1)
        timed: Tensor = self.action_time(joined)
        return timed

    def _append_state(self, prefix: Prefix) -> Prefix:
        """A prefix that ends with the token of the state, if it leaves the state to the expert.

        The token attends to no action token and knows no τ, so that it is the same in all passes.
        """
        if prefix.state is None or self.state is None:
            return prefix
        self._check(prefix, None)
        token = self.state(prefix.state.to(self.state.weight.dtype)).unsqueeze(1)
        return self.extend(token, replace(prefix, state=None))[1]

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
