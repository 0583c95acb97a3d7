"""E0's hybrid: flow matching and one-hot diffusion side by side in one expert."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.flow_matching import RectifiedFlow
from e0_lightning.diffusion.inpainting import inpaint_denoiser, inpaint_velocity
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import Sampler, TweedieSampler
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.types import ActionSample, Batch


class E0Hybrid(Policy):
    """A flow over steps, and a one-hot diffusion over tokens that sees it.

    H flow tokens precede ``H·D`` one-hot tokens; the first do not see the second. Both are at the
    same τ. ``loss = ½ ‖v − (A − ε)‖² + ½ CE``, and the chunk is the mean of what the flow ends at
    and what the tokens read (the checkpoints released with E0, arXiv 2511.21542).

    Args:
        encoder: Observations to prefix.
        expert: Transformer over both kinds of token.
        actions: Robot units to normalized chunks.
        flow: Path of the continuous chunk, and the tau_distribution of τ for both.
        process: Noise on one-hot tokens and its bins K; its own tau_distribution of τ is not used.
        sampler: Rule, schedule and read-out of the tokens; the flow takes the same steps.
        common: ``optimizer``, ``fine_tuning`` and ``weights`` of every :class:`Policy`.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        flow: RectifiedFlow | None = None,
        process: OneHotDiffusion | None = None,
        sampler: Sampler | None = None,
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        self.flow = flow or RectifiedFlow()
        self.process = process or OneHotDiffusion()
        self.sampler = sampler or TweedieSampler()
        self.tokenizer = ActionTokenizer(self.process.num_bins)
        self.tokens = actions.horizon * actions.width
        self.expert = expert.connect(encoder.language)
        bins, width = self.process.num_bins, expert.width
        self.flow_projection = ActionProjection(
            nn.Linear(actions.width, width), actions.horizon, width, actions.width
        )
        self.token_projection = ActionProjection(nn.Linear(bins, width), self.tokens, width, bins)

    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        """Half the squared error of the velocity, half the cross-entropy of the tokens."""
        valid = self.actions.loss_mask(batch["valid"])
        tau = self.flow.tau_distribution.sample(len(valid), device=valid.device)
        x_tau, target = self.flow.corrupt(batch["actions"], tau, valid=valid)
        velocity, longer = self._flow(x_tau, tau, prefix)
        tokens, counted = self.tokenizer.encode(batch["actions"]).flatten(1), valid.flatten(1)
        logits = self._denoise(self.process.corrupt(tokens, tau, valid=counted), tau, longer)
        return {
            "velocity": self.flow.loss(velocity, target, valid) / 2,
            "cross_entropy": self.process.loss(logits, tokens, counted) / 2,
        }

    def sample(self, prefix: Prefix) -> Tensor:
        """Walk the flow and the tokens over the same levels, and average their ends."""
        return E0Hybrid.draw(self, prefix).actions

    def draw(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Walk what is not decided, and tell how sure the tokens are."""
        ends = None if action_prefix is None else action_prefix.normalized
        known = None if action_prefix is None else action_prefix.tokens(self.tokenizer)
        shape = (prefix.batch_size, self.actions.horizon, self.actions.width)
        device = prefix.mask.device
        levels = self.sampler.schedule(self.sampler.num_steps)

        # The flow sees no token, so it can be walked to its end before they start.
        def velocity(x_tau: Tensor, tau: Tensor) -> Tensor:
            return self._flow(x_tau, tau, prefix)[0]

        states = self.flow.integrate(inpaint_velocity(velocity, ends), shape, levels, device=device)
        seen = iter(states)

        def denoise(x_tau: Tensor, tau: Tensor) -> Tensor:
            return self._denoise(x_tau, tau, self._flow(next(seen), tau, prefix)[1])

        tokens, logits = self.sampler(
            inpaint_denoiser(denoise, self.process, known),
            self.process,
            (prefix.batch_size, self.tokens),
            device=device,
        )
        values = self.tokenizer.read_out(tokens, logits, self.sampler.readout, self.sampler.window)
        chunk = (states[-1] + values.view(shape)) / 2
        return ActionSample(chunk, self.actions.normalized_entropy(logits))

    def _flow(self, x_tau: Tensor, tau: Tensor, prefix: Prefix) -> tuple[Tensor, Prefix]:
        """Velocity ``(B, H, width)`` of a chunk, and the prefix that its tokens see."""
        # Padding has no velocity to learn, so what it would drift to must not be seen.
        entered = self.flow_projection.embed(x_tau.masked_fill(self.actions.padding, 0.0))
        refined, longer = self.expert.extend(entered, prefix, tau)
        return self.flow_projection.project_out(refined), longer

    def _denoise(self, x_tau: Tensor, tau: Tensor, prefix: Prefix) -> Tensor:
        """Logits ``(B, L, K)`` for noisy tokens behind the flow's."""
        return self.token_projection.project_out(
            self.expert(self.token_projection.embed(x_tau), prefix, tau)
        )
