"""E0's hybrid: flow matching and one-hot diffusion in one expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.flow_matching import RectifiedFlow
from e0_lightning.diffusion.inpainting import inpaint_denoiser, inpaint_velocity
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import Sampler, TweedieSampler
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection, NoisyTokenEmbedding
from e0_lightning.networks.expert_cache import ExpertCache
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.types import ActionSample, NormalizedBatch


class E0Hybrid(Policy):
    """A flow over steps, and a one-hot diffusion over tokens that attend to it.

    H flow tokens precede ``H·D`` one-hot tokens; flow tokens do not attend to one-hot tokens. Both
    are at the same τ. ``loss = ½ ‖v − (A − ε)‖² + ½ CE``, and the chunk is the mean of the end of
    the flow and the values of the tokens (the checkpoints released with E0, arXiv 2511.21542).

    Args:
        encoder: Encoder of observations to a prefix.
        expert: Transformer over both kinds of token.
        actions: Conversion of robot units to normalized chunks.
        flow: Path of the continuous chunk, and the distribution of τ for both.
        process: Noise on one-hot tokens and its bins K; its own distribution of τ is not used.
        sampler: Rule, schedule and read-out of the tokens; the flow takes the same steps.
        common: ``optimizer``, ``fine_tuning``, ``weights``, ``metrics`` and ``state_normalizer`` of
            :class:`Policy`.
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
        self.num_tokens = actions.horizon * actions.width
        self.expert = expert.connect(encoder.language, state_dim=encoder.suffix_state_dim)
        bins, width = self.process.num_bins, expert.width
        self.flow_projection = ActionProjection(
            nn.Linear(actions.width, width), actions.horizon, width, actions.width
        )
        self.token_projection = ActionProjection(
            NoisyTokenEmbedding(bins, width, unit_input=self.process.matched_filter),
            self.num_tokens,
            width,
            bins,
        )

    def losses(self, batch: NormalizedBatch, prefix: Prefix) -> dict[str, Tensor]:
        """Half the squared error of the velocity, half the cross-entropy of the tokens."""
        valid, generator = self.actions.loss_mask(batch["valid"]), self.generator
        tau = self.flow.tau_distribution.sample(len(valid), generator, valid.device)
        x_tau, target = self.flow.corrupt(batch["actions"], tau, generator, valid)
        velocity, extended = self._flow(x_tau, tau, prefix)
        tokens, offset, token_valid = (
            each.flatten(1)
            for each in (
                self.tokenizer.encode(batch["actions"]),
                self.tokenizer.offset(batch["actions"]),
                valid,
            )
        )
        noisy = self.process.corrupt(tokens, tau, generator, token_valid)
        logits = self._denoise(noisy, tau, extended)
        return {
            "velocity": self.flow.loss(velocity, target, valid) / 2,
            "cross_entropy": self.process.loss(logits, tokens, token_valid, offset) / 2,
        }

    @torch.no_grad()
    def sample(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Integrate the flow, denoise the tokens over the same noise levels, and average."""
        numbers = None if action_prefix is None else action_prefix.normalized
        prefix_tokens = None if action_prefix is None else action_prefix.tokens(self.tokenizer)
        shape = (prefix.batch_size, self.actions.horizon, self.actions.width)
        device, generator = prefix.mask.device, self.generator
        taus = self.sampler.taus(self.process)
        lengths = [self.actions.horizon, self.num_tokens]
        flow_cache, token_cache = self.expert.prepare(prefix, lengths, taus)

        def velocity(x_tau: Tensor, tau: Tensor) -> Tensor:
            return self._flow(x_tau, tau, flow_cache)[0]

        path = self.flow.integrate(
            inpaint_velocity(velocity, numbers), shape, taus, generator, device
        )
        states = [next(path)]

        def denoise(x_tau: Tensor, tau: Tensor) -> Tensor:
            # A step of the flow leaves its keys and values where those of the tokens follow.
            states.append(next(path))
            return self._denoise(x_tau, tau, token_cache)

        tokens, logits = self.sampler(
            inpaint_denoiser(denoise, self.process, prefix_tokens),
            self.process,
            (prefix.batch_size, self.num_tokens),
            generator,
            device,
        )
        values = self.tokenizer.read_out(tokens, logits, self.sampler.readout, self.sampler.window)
        chunk = (states[-1] + values.view(shape)) / 2
        return ActionSample(chunk, self.actions.normalized_entropy(logits))

    def _flow(
        self, x_tau: Tensor, tau: Tensor, prefix: Prefix | ExpertCache
    ) -> tuple[Tensor, Prefix]:
        """Velocity ``(B, H, width)`` of a chunk, and the prefix extended by its tokens."""
        # Padding has no target velocity, so its state is hidden from the network.
        inputs = self.flow_projection.embed(x_tau.masked_fill(self.actions.padding, 0.0))
        refined, extended = self.expert.extend(inputs, prefix, tau)
        return self.flow_projection.project_out(refined), extended

    def _denoise(self, x_tau: Tensor, tau: Tensor, prefix: Prefix | ExpertCache) -> Tensor:
        """Logits ``(B, L, K)`` for noisy tokens after those of the flow."""
        embedded = self.token_projection.embed(self.process.network_input(x_tau, tau))
        refined = self.expert(embedded, prefix, tau)
        return self.token_projection.project_out(refined)
