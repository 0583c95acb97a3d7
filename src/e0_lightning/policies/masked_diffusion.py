"""Masked diffusion over action tokens (Discrete Diffusion VLA, arXiv 2508.20072)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.inpainting import inpaint_predictor
from e0_lightning.diffusion.masked import ConfidenceSampler, TokenMasking
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.expert_cache import ExpertCache
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.types import ActionSample, NormalizedBatch


class MaskedDiffusion(Policy):
    """Predicts masked tokens, and unmasks the most confident ones first.

    Training masks tokens at ratios of a cosine schedule, under a cross-entropy; sampling starts
    from masks alone, and remasks tokens whose probability falls.

    Args:
        encoder: Encoder of observations to a prefix.
        expert: Transformer over action tokens.
        actions: Conversion of robot units to normalized chunks.
        process: Masking in training, and its bins K.
        sampler: Rounds, temperature and remasking.
        common: ``optimizer``, ``fine_tuning``, ``weights``, ``metrics`` and ``state_normalizer`` of
            :class:`Policy`.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        process: TokenMasking | None = None,
        sampler: ConfidenceSampler | None = None,
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        self.process = process or TokenMasking()
        self.sampler = sampler or ConfidenceSampler()
        self.tokenizer = ActionTokenizer(self.process.num_bins)
        self.num_tokens = actions.horizon * actions.width
        # The network sees the ratio of masks in the tokens themselves.
        self.expert = expert.connect(
            encoder.language, diffusion_time=False, state_dim=encoder.suffix_state_dim
        )
        embedding = nn.Embedding(self.process.num_bins + 1, expert.width)
        self.projection = ActionProjection(
            embedding, self.num_tokens, expert.width, self.process.num_bins
        )

    def losses(self, batch: NormalizedBatch, prefix: Prefix) -> dict[str, Tensor]:
        """Cross-entropy of the masked tokens."""
        tokens = self.tokenizer.encode(batch["actions"]).flatten(1)
        valid = self.actions.loss_mask(batch["valid"]).flatten(1)
        corrupted = self.process.corrupt(tokens, valid, self.generator)
        logits = self.predict(corrupted, prefix)
        return {"cross_entropy": self.process.loss(logits, tokens, corrupted, valid)}

    @torch.no_grad()
    def sample(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Unmask chunks; the tokens of an action prefix are unmasked from the start.

        There is no uncertainty: the last posterior is that of the tokens still masked then.
        """
        prefix_tokens = None if action_prefix is None else action_prefix.tokens(self.tokenizer)
        (cache,) = self.expert.prepare(prefix, [self.num_tokens])
        tokens, _ = self.sampler(
            inpaint_predictor(partial(self.predict, prefix=cache), prefix_tokens),
            self.process,
            (prefix.batch_size, self.num_tokens),
            self.generator,
            prefix.mask.device,
            valid=~self._padding(),
        )
        values = self.tokenizer.decode(tokens)
        return ActionSample(values.view(-1, self.actions.horizon, self.actions.width))

    def predict(self, tokens: Tensor, prefix: Prefix | ExpertCache) -> Tensor:
        """Logits ``(B, L, K)`` for tokens ``(B, L)``, K where masked."""
        inputs = tokens.masked_fill(self._padding(), self.process.mask)
        return self.projection.project_out(self.expert(self.projection.embed(inputs), prefix))

    def _padding(self) -> Tensor:
        return self.actions.padding.repeat(self.actions.horizon)
