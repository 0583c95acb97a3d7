"""Flow matching: the velocity from noise to actions (π0, arXiv 2410.24164)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.diffusion.flow_matching import RectifiedFlow
from e0_lightning.diffusion.inpainting import inpaint_velocity
from e0_lightning.diffusion.schedules import UniformSchedule
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.expert_cache import ExpertCache
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.types import ActionSample, NormalizedBatch


class FlowMatching(Policy):
    """Predicts the velocity of a noisy chunk, and integrates it from noise to actions.

    ``x_τ = τ A + (1 − τ) ε``, ``loss = ‖v(x_τ, τ) − (A − ε)‖²``; τ is sampled with a bias to noise,
    and Euler's method takes N even steps (π0, section IV). A step of the chunk is a token.

    Args:
        encoder: Encoder of observations to a prefix.
        expert: Transformer over the steps of a chunk.
        actions: Conversion of robot units to normalized chunks.
        flow: Path and distribution of τ.
        num_steps: Euler steps N.
        common: ``optimizer``, ``fine_tuning``, ``weights``, ``metrics`` and ``state_normalizer`` of
            :class:`Policy`.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        flow: RectifiedFlow | None = None,
        num_steps: int = 10,
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        self.flow = flow or RectifiedFlow()
        self.taus = UniformSchedule()(num_steps)
        self.expert = expert.connect(encoder.language, state_dim=encoder.suffix_state_dim)
        embedding = nn.Linear(actions.width, expert.width)
        self.projection = ActionProjection(embedding, actions.horizon, expert.width, actions.width)

    def losses(self, batch: NormalizedBatch, prefix: Prefix) -> dict[str, Tensor]:
        """Squared error of the velocity."""
        valid = self.actions.loss_mask(batch["valid"])
        tau = self.flow.tau_distribution.sample(len(valid), self.generator, valid.device)
        x_tau, velocity = self.flow.corrupt(batch["actions"], tau, self.generator, valid)
        return {"velocity": self.flow.loss(self.velocity(x_tau, tau, prefix), velocity, valid)}

    @torch.no_grad()
    def sample(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Integrate from noise; an action prefix stays on a straight path to its actions."""
        (cache,) = self.expert.prepare(prefix, [self.actions.horizon], self.taus)
        velocity = inpaint_velocity(
            partial(self.velocity, prefix=cache),
            None if action_prefix is None else action_prefix.normalized,
        )
        shape = (prefix.batch_size, self.actions.horizon, self.actions.width)
        device = prefix.mask.device
        *_, chunk = self.flow.integrate(velocity, shape, self.taus, self.generator, device)
        return ActionSample(chunk)

    def velocity(self, x_tau: Tensor, tau: Tensor, prefix: Prefix | ExpertCache) -> Tensor:
        """Velocity ``(B, H, width)`` of noisy chunks at ``tau`` ``(B,)``."""
        # Padding has no target velocity, so its state is hidden from the network.
        inputs = x_tau.masked_fill(self.actions.padding, 0.0)
        return self.projection.project_out(self.expert(self.projection.embed(inputs), prefix, tau))
