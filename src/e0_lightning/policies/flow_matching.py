"""Flow matching: the velocity from noise to actions (π0, arXiv 2410.24164)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from e0_lightning.actions.space import ActionSpace
from e0_lightning.diffusion.flow import RectifiedFlow
from e0_lightning.diffusion.inpainting import steer
from e0_lightning.diffusion.schedules import UniformSchedule
from e0_lightning.networks.expert import ActionExpert
from e0_lightning.networks.port import ActionPort
from e0_lightning.networks.prefix import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.policies.drawing import Committed, Draw
from e0_lightning.types import Batch


class FlowMatching(Policy):
    """Regress the velocity of a noisy chunk, and follow it from noise to actions.

    ``x_τ = τ A + (1 − τ) ε``, ``loss = ‖v(x_τ, τ) − (A − ε)‖²``; τ is drawn with a bias to noise,
    and Euler's method takes N even steps (π0, section IV). A step of the chunk is a token.

    Args:
        encoder: Observations to prefix.
        expert: Transformer over the steps of a chunk.
        actions: Robot units to normalised chunks.
        flow: Path and density of τ.
        num_steps: Euler's steps N.
        common: ``optimization``, ``fine_tuning`` and ``weights`` of every :class:`Policy`.
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
        self.expert = expert
        embed = nn.Linear(actions.width, expert.width)
        self.port = ActionPort(embed, actions.horizon, expert.width, actions.width)

    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        """Squared error of the velocity."""
        valid = self.actions.counted(batch["valid"])
        tau = self.flow.density.sample(len(valid), device=valid.device)
        x_tau, velocity = self.flow.corrupt(batch["actions"], tau, valid=valid)
        return {"velocity": self.flow.loss(self.velocity(x_tau, tau, prefix), velocity, valid)}

    def sample(self, prefix: Prefix) -> Tensor:
        """Follow the velocity from pure noise."""
        return FlowMatching.draw(self, prefix).chunk

    def draw(self, prefix: Prefix, committed: Committed | None = None) -> Draw:
        """Follow the velocity, but for what is decided, which runs straight to its end."""
        ends = None if committed is None else committed.chunk
        return Draw(
            self.flow.integrate(
                steer(partial(self.velocity, prefix=prefix), ends),
                (prefix.batch_size, self.actions.horizon, self.actions.width),
                self.levels,
                device=prefix.mask.device,
            )[-1]
        )

    def velocity(self, x_tau: Tensor, tau: Tensor, prefix: Prefix) -> Tensor:
        """Velocity ``(B, H, width)`` of noisy chunks at ``tau`` ``(B,)``."""
        # Padding has no velocity to learn, so what it would drift to must not be seen.
        seen = x_tau.masked_fill(self.actions.padding, 0.0)
        return self.port.leave(self.expert(self.port.enter(seen), tau, prefix))
