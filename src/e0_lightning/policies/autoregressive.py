"""Autoregression over action tokens (OpenVLA, arXiv 2406.09246)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.inpainting import inpaint_logits
from e0_lightning.diffusion.losses import cross_entropy
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.random import sample_tokens
from e0_lightning.types import ActionSample, NormalizedBatch


class Autoregressive(Policy):
    """Predicts each token from those before it, ``Pr(A | o) = Π_i Pr(k_i | k_1 … k_{i−1}, o)``.

    As in OpenVLA (section III), a dimension of a step is one of K = 256 tokens between the 1st and
    99th percentile, trained with a cross-entropy and decoded greedily; OpenVLA's chunk is one step.
    Decoding caches the keys and values of earlier tokens.

    Args:
        encoder: Encoder of observations to a prefix.
        expert: Transformer over action tokens.
        actions: Conversion of robot units to normalized chunks.
        num_bins: Bins K.
        temperature: T of ``p^(1/T)`` in decoding; 0 is greedy.
        common: ``optimizer``, ``fine_tuning``, ``weights``, ``metrics`` and ``state_normalizer`` of
            :class:`Policy`.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        num_bins: int = 256,
        temperature: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        self.tokenizer = ActionTokenizer(num_bins)
        self.temperature = temperature
        self.num_tokens = actions.horizon * actions.width
        self.expert = expert.connect(
            encoder.language, diffusion_time=False, state_dim=encoder.suffix_state_dim
        )
        # Start of the sequence, and the input in place of padding.
        self.start_token = num_bins
        embedding = nn.Embedding(num_bins + 1, expert.width)
        self.projection = ActionProjection(embedding, self.num_tokens, expert.width, num_bins)

    def losses(self, batch: NormalizedBatch, prefix: Prefix) -> dict[str, Tensor]:
        """Cross-entropy of each token given the true ones before it."""
        tokens = self.tokenizer.encode(batch["actions"]).flatten(1)
        valid = self.actions.loss_mask(batch["valid"]).flatten(1)
        inputs = tokens.masked_fill(~valid, self.start_token).roll(1, dims=1)
        inputs[:, 0] = self.start_token
        refined = self.expert(self.projection.embed(inputs), prefix, causal=True)
        return {"cross_entropy": cross_entropy(self.projection.project_out(refined), tokens, valid)}

    def sample(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Decode token by token, after those of an action prefix."""
        prefix_tokens = None if action_prefix is None else action_prefix.tokens(self.tokenizer)
        token = torch.full((prefix.batch_size, 1), self.start_token, device=prefix.mask.device)
        tokens, posteriors = [], []
        for index in range(self.num_tokens):
            refined, prefix = self.expert.extend(self.projection.embed(token, index), prefix)
            logits = self.projection.project_out(refined).float()
            if prefix_tokens is not None:
                logits = inpaint_logits(logits, prefix_tokens[:, index, None])
            token = sample_tokens(logits, self.temperature, self.generator)
            tokens.append(token)
            posteriors.append(logits)
            if self.actions.padding[index % self.actions.width]:
                token = torch.full_like(token, self.start_token)
        values = self.tokenizer.decode(torch.cat(tokens, dim=1))
        chunk = values.view(-1, self.actions.horizon, self.actions.width)
        uncertainty = self.actions.normalized_entropy(torch.cat(posteriors, dim=1))
        return ActionSample(chunk, uncertainty)
