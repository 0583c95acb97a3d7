"""Masked diffusion over action tokens (Discrete Diffusion VLA, arXiv 2508.20072)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.inpainting import inpaint_predictor
from e0_lightning.diffusion.masked import ConfidenceSampler, TokenMasking
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.types import ActionSample, Batch


class MaskedDiffusion(Policy):
    """Fill in hidden tokens, the most confident ones first.

    Tokens are hidden behind a mask by a cosine schedule, and learnt under a cross-entropy; decoding
    starts from masks alone, and hides again the tokens it comes to doubt.

    Args:
        encoder: Observations to prefix.
        expert: Transformer over action tokens.
        actions: Robot units to normalized chunks.
        process: How training hides tokens, and the bins K.
        sampler: Rounds, temperature and doubts of decoding.
        common: ``optimizer``, ``fine_tuning`` and ``weights`` of every :class:`Policy`.
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
        self.tokens = actions.horizon * actions.width
        self.expert = expert.connect(encoder.language, diffusion_time=False)
        embed = nn.Embedding(self.process.num_bins + 1, expert.width)
        self.projection = ActionProjection(embed, self.tokens, expert.width, self.process.num_bins)

    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        """Cross-entropy of the hidden tokens."""
        tokens = self.tokenizer.encode(batch["actions"]).flatten(1)
        valid = self.actions.loss_mask(batch["valid"]).flatten(1)
        corrupted = self.process.corrupt(tokens, valid)
        logits = self.predict(corrupted, prefix)
        return {"cross_entropy": self.process.loss(logits, tokens, corrupted, valid)}

    def sample(self, prefix: Prefix) -> Tensor:
        """Uncover chunks from masks alone."""
        return MaskedDiffusion.draw(self, prefix).actions

    def draw(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Uncover what is not decided; what is, the network sees from the start."""
        known = None if action_prefix is None else action_prefix.tokens(self.tokenizer)
        tokens, _ = self.sampler(
            inpaint_predictor(partial(self.predict, prefix=prefix), known),
            self.process,
            (prefix.batch_size, self.tokens),
            device=prefix.mask.device,
            valid=~self.actions.padding.repeat(self.actions.horizon),
        )
        values = self.tokenizer.decode(tokens)
        return ActionSample(values.view(-1, self.actions.horizon, self.actions.width))

    def predict(self, tokens: Tensor, prefix: Prefix) -> Tensor:
        """Logits ``(B, L, K)`` for tokens ``(B, L)``, K where masked."""
        padding = self.actions.padding.repeat(self.actions.horizon)
        seen = tokens.masked_fill(padding, self.process.mask)
        return self.projection.project_out(self.expert(self.projection.embed(seen), prefix))
