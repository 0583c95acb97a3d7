"""Regression: all actions at once, under an absolute error (OpenVLA-OFT, arXiv 2502.19645)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.diffusion.losses import masked_mean
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.types import Batch


class Regression(Policy):
    """Read a chunk off empty tokens that see each other, in one pass.

    ``loss = |Â(observation) − A|``, whose minimiser is the median of the actions: with two good
    ways round an obstacle it chooses one, or what lies between. Parallel decoding with the L1
    objective of OpenVLA-OFT (section IV); a step of the chunk is a token.

    Args:
        encoder: Observations to prefix.
        expert: Transformer over the steps of a chunk.
        actions: Robot units to normalized chunks.
        common: ``optimizer``, ``fine_tuning`` and ``weights`` of every :class:`Policy`.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        self.expert = expert.connect(encoder.language, diffusion_time=False)
        # The tokens hold nothing but their learned positions.
        self.projection = ActionProjection(
            nn.Identity(), actions.horizon, expert.width, actions.width
        )

    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        """Absolute error of the chunk."""
        error = (self.sample(prefix).float() - batch["actions"]).abs()
        return {"absolute_error": masked_mean(error, self.actions.loss_mask(batch["valid"]))}

    def sample(self, prefix: Prefix) -> Tensor:
        """Predict chunks; there is nothing to draw."""
        weight = self.projection.positions
        empty = weight.new_zeros(prefix.batch_size, *weight.shape)
        return self.projection.project_out(self.expert(self.projection.embed(empty), prefix))
