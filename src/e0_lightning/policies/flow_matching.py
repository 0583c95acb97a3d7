"""Flow matching: the velocity from noise to actions (π0, arXiv 2410.24164)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.diffusion.flow_matching import RectifiedFlow
from e0_lightning.diffusion.inpainting import inpaint_velocity
from e0_lightning.diffusion.schedules import UniformSchedule
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.types import ActionSample, Batch


class FlowMatching(Policy):
    """Regress the velocity of a noisy chunk, and follow it from noise to actions.

    ``x_τ = τ A + (1 − τ) ε``, ``loss = ‖v(x_τ, τ) − (A − ε)‖²``; τ is drawn with a bias to noise,
    and Euler's method takes N even steps (π0, section IV). A step of the chunk is a token.

    Args:
        encoder: Observations to prefix.
        expert: Transformer over the steps of a chunk.
        actions: Robot units to normalized chunks.
        flow: Path and tau_distribution of τ.
        num_steps: Euler's steps N.
        common: ``optimizer``, ``fine_tuning`` and ``weights`` of every :class:`Policy`.
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
        self.levels = UniformSchedule()(num_steps)
        self.expert = expert.connect(encoder.language)
        embed = nn.Linear(actions.width, expert.width)
        self.projection = ActionProjection(embed, actions.horizon, expert.width, actions.width)

    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        """Squared error of the velocity."""
        valid = self.actions.loss_mask(batch["valid"])
        tau = self.flow.tau_distribution.sample(len(valid), device=valid.device)
        x_tau, velocity = self.flow.corrupt(batch["actions"], tau, valid=valid)
        return {"velocity": self.flow.loss(self.velocity(x_tau, tau, prefix), velocity, valid)}

    def sample(self, prefix: Prefix) -> Tensor:
        """Follow the velocity from pure noise."""
        return FlowMatching.draw(self, prefix).actions

    def draw(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Follow the velocity, but for what is decided, which runs straight to its end."""
        ends = None if action_prefix is None else action_prefix.normalized
        return ActionSample(
            self.flow.integrate(
                inpaint_velocity(partial(self.velocity, prefix=prefix), ends),
                (prefix.batch_size, self.actions.horizon, self.actions.width),
                self.levels,
                device=prefix.mask.device,
            )[-1]
        )

    def velocity(self, x_tau: Tensor, tau: Tensor, prefix: Prefix) -> Tensor:
        """Velocity ``(B, H, width)`` of noisy chunks at ``tau`` ``(B,)``."""
        # Padding has no velocity to learn, so what it would drift to must not be seen.
        seen = x_tau.masked_fill(self.actions.padding, 0.0)
        return self.projection.project_out(self.expert(self.projection.embed(seen), prefix, tau))
