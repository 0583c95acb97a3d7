"""Regression: all actions in one pass, under an absolute error (OpenVLA-OFT, arXiv 2502.19645)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.diffusion.losses import masked_mean
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.types import ActionSample, NormalizedBatch


class Regression(Policy):
    """Predicts a chunk from position embeddings that attend to each other, in one pass.

    ``loss = |Â(observation) − A|``, minimized by the median of the actions: of two modes it
    predicts one, or a value between them. Parallel decoding with the L1 objective of OpenVLA-OFT
    (section IV); a step of the chunk is a token.

    Args:
        encoder: Encoder of observations to a prefix.
        expert: Transformer over the steps of a chunk.
        actions: Conversion of robot units to normalized chunks.
        common: ``optimizer``, ``fine_tuning``, ``weights``, ``metrics`` and ``state_normalizer`` of
            :class:`Policy`.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        self.expert = expert.connect(
            encoder.language, diffusion_time=False, state_dim=encoder.suffix_state_dim
        )
        # The tokens are their learned positions.
        self.projection = ActionProjection(
            nn.Identity(), actions.horizon, expert.width, actions.width
        )

    def losses(self, batch: NormalizedBatch, prefix: Prefix) -> dict[str, Tensor]:
        """Absolute error of the chunk."""
        error = (self._predict(prefix).float() - batch["actions"]).abs()
        return {"absolute_error": masked_mean(error, self.actions.loss_mask(batch["valid"]))}

    def sample(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Predict chunks; there is no noise, and no action prefix."""
        self.refuse_action_prefix(action_prefix)
        return ActionSample(self._predict(prefix))

    def _predict(self, prefix: Prefix) -> Tensor:
        positions = self.projection.positions
        inputs = positions.new_zeros(prefix.batch_size, *positions.shape)
        return self.projection.project_out(self.expert(self.projection.embed(inputs), prefix))
