"""E0: Tweedie discrete diffusion over action tokens (arXiv 2511.21542)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.guidance import InstructionGuidance
from e0_lightning.diffusion.inpainting import inpaint_denoiser
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.projected_noise import corrupt_projected
from e0_lightning.diffusion.samplers import Denoise, Sampler, TweedieSampler
from e0_lightning.metrics import TokenAccuracy
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection, NoisyTokenEmbedding
from e0_lightning.networks.expert_cache import ExpertCache
from e0_lightning.networks.gaussian_head import GaussianHead
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.random import sample_uniform
from e0_lightning.types import ActionSample, Batch, NormalizedBatch


class E0(Policy):
    """Classifies noisy one-hot tokens, and denoises a chunk from τ = 0 towards 1.

    ``x_τ = τ α e_k + (1 − τ) ε``; the expert estimates ``Pr(k | x_τ, observation)`` under a
    cross-entropy loss, the sampler turns that estimate into tokens (E0, eq. 3-12).

    Args:
        encoder: Encoder of observations to a prefix.
        expert: Transformer over action tokens.
        actions: Conversion of robot units to normalized chunks.
        process: Noise on one-hot tokens, its bins K and its distribution of τ.
        sampler: Rule, schedule and read-out.
        token_per: Expert token: a ``dimension`` of a step, as in the paper, or a whole ``step``,
            its D one-hots side by side, at 1/D of the sequence length.
        head: Logits ``linear`` in an expert token, as in the paper, or with a ``gaussian`` around
            a predicted value added to them, which is learned in fewer steps (``GaussianHead``).
        self_conditioning: Embed an earlier estimate of the tokens too (Analog Bits,
            arXiv 2208.04202): in sampling that of the step before, for half of the training samples
            that of a first pass.
        max_action_prefix: Longest action prefix in training, in steps, below the horizon. Its
            length is uniform from 0; its tokens are inputs without noise and have no loss
            (arXiv 2512.05964). Otherwise a chunk continues its prefix only as far as x_τ informs
            the network, which for α = 0.1 it hardly does.
        noise_draws: Noise levels and noises that training draws for each encoded observation; the
            encoder, the larger part of a step, runs once for all of them.
        guidance: Dropping of instructions in training, and guidance by them in sampling; None drops
            none and does not guide.
        common: ``optimizer``, ``fine_tuning``, ``weights``, ``metrics`` and ``state_normalizer`` of
            :class:`Policy`.

    Raises:
        ValueError: If ``max_action_prefix`` is not below the horizon, or ``noise_draws`` below 1.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        process: OneHotDiffusion | None = None,
        sampler: Sampler | None = None,
        token_per: Literal["dimension", "step"] = "dimension",
        head: Literal["linear", "gaussian"] = "linear",
        self_conditioning: bool = False,
        max_action_prefix: int = 0,
        noise_draws: int = 1,
        guidance: InstructionGuidance | None = None,
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        if not 0 <= max_action_prefix < actions.horizon:
            raise ValueError(
                f"max_action_prefix: expected 0 to {actions.horizon - 1} steps, below the horizon, "
                f"got {max_action_prefix}."
            )
        if noise_draws < 1:
            raise ValueError(f"noise_draws: expected 1 or more, got {noise_draws}.")
        self.process = process or OneHotDiffusion()
        self.sampler = sampler or TweedieSampler()
        self.self_conditioning, self.max_action_prefix = self_conditioning, max_action_prefix
        self.noise_draws = noise_draws
        self.guidance = guidance
        self.tokenizer = ActionTokenizer(self.process.num_bins)
        self.expert = expert.connect(encoder.language, state_dim=encoder.suffix_state_dim)
        self.num_tokens = actions.horizon * actions.width
        joined = actions.width if token_per == "step" else 1
        num_bins, width = self.process.num_bins, expert.width
        embedding = NoisyTokenEmbedding(
            num_bins,
            width,
            joined,
            self_conditioning,
            action_prefix=max_action_prefix > 0,
            unit_input=self.process.matched_filter,
        )
        out = GaussianHead(width, num_bins, joined) if head == "gaussian" else joined * num_bins
        self.projection = ActionProjection(embedding, self.num_tokens // joined, width, out)
        self.accuracy = nn.ModuleDict({"on_train": TokenAccuracy(), "on_val": TokenAccuracy()})

    @property
    def is_guided(self) -> bool:
        """Whether sampling expects pairs, as the guidance has a scale other than 1."""
        return self.guidance is not None and self.guidance.scale != 1

    def compute_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses; in training some samples have the empty instruction, under guidance."""
        if self.guidance is not None and self.training:
            instruction = self.guidance.drop(batch["instruction"], self.generator)
            batch = Batch({**batch, "instruction": instruction})  # type: ignore[typeddict-item]
        return super().compute_losses(batch)

    def losses(self, batch: NormalizedBatch, prefix: Prefix) -> dict[str, Tensor]:
        """Cross-entropy of the tokens given their noisy one-hots (E0, eq. 5)."""
        prefix = prefix.repeat(self.noise_draws)
        tokens, offset, valid = (
            each.flatten(1).repeat(self.noise_draws, 1)
            for each in (
                self.tokenizer.encode(batch["actions"]),
                self.tokenizer.offset(batch["actions"]),
                self.actions.loss_mask(batch["valid"]),
            )
        )
        tau = self.process.tau_distribution.sample(len(tokens), self.generator, tokens.device)
        prefix_tokens = self._sample_action_prefix(tokens)
        embedded = self._embed_corrupted(tokens, tau, valid, prefix_tokens)
        embedded = self._condition_on_estimate(embedded, tau, prefix)
        logits = self._refine(embedded, tau, prefix).float()  # once, for accuracy and loss
        in_loss = valid if prefix_tokens is None else valid & (prefix_tokens < 0)
        self._stage_accuracy().update(logits.detach(), tokens, in_loss, tau)
        return {"cross_entropy": self.process.loss(logits, tokens, in_loss, offset)}

    @torch.no_grad()
    def sample(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Denoise chunks from noise; the tokens of an action prefix are inpainted.

        Raises:
            ValueError: If the prefix is paired but the policy is not guided, or the other way.
        """
        if prefix.paired != self.is_guided:
            raise ValueError(
                f"prefix: expected paired={self.is_guided}, got {prefix.paired}. Encode with "
                "encode(observation, paired=policy.is_guided)."
            )
        prefix_tokens = None if action_prefix is None else action_prefix.tokens(self.tokenizer)
        taus = self.sampler.taus(self.process)
        (cache,) = self.expert.prepare(prefix, [len(self.projection.positions)], taus)
        tokens, logits = self.sampler(
            self._denoiser(cache, prefix_tokens),
            self.process,
            (prefix.batch_size, self.num_tokens),
            self.generator,
            prefix.mask.device,
        )
        values = self.tokenizer.read_out(tokens, logits, self.sampler.readout, self.sampler.window)
        chunk = values.view(-1, self.actions.horizon, self.actions.width)
        return ActionSample(chunk, self.actions.normalized_entropy(logits))

    def denoise(
        self,
        x_tau: Tensor,
        tau: Tensor,
        prefix: Prefix | ExpertCache,
        estimate: Tensor | None = None,
        prefix_tokens: Tensor | None = None,
    ) -> Tensor:
        """Logits ``(B, L, K)`` for noisy tokens.

        Args:
            x_tau: ``(B, L, K)``.
            tau: ``(B,)``.
            prefix: Encoded observations, or the expert's cache for them.
            estimate: Logits of the step before, ``(B, L, K)``; used under self-conditioning.
            prefix_tokens: Tokens of the action prefix, ``(B, L)`` int64, −1 after it; used if
                training had action prefixes.
        """
        embedded = self._embed(x_tau, tau, prefix_tokens)
        return self._refine(self.projection.embedding.add_estimate(embedded, estimate), tau, prefix)

    def _denoiser(self, prefix: ExpertCache, prefix_tokens: Tensor | None) -> Denoise:
        """The posterior given an action prefix and, under self-conditioning, the last posterior."""
        estimate: Tensor | None = None

        def denoise(x_tau: Tensor, tau: Tensor) -> Tensor:
            # Under guidance both halves of the rows continue the same chunk.
            given, fixed = (
                each if each is None or len(each) == len(x_tau) else torch.cat([each, each])
                for each in (estimate, prefix_tokens)
            )
            return self.denoise(x_tau, tau, prefix, given, fixed)

        guided = self.guidance.guide(denoise) if self.guidance and self.is_guided else denoise
        inpainted = inpaint_denoiser(guided, self.process, prefix_tokens)

        def conditioned(x_tau: Tensor, tau: Tensor) -> Tensor:
            nonlocal estimate
            estimate = inpainted(x_tau, tau)
            return estimate

        return conditioned if self.self_conditioning else inpainted

    def _sample_action_prefix(self, tokens: Tensor) -> Tensor | None:
        """Tokens of random action prefixes, ``(B, L)``, −1 after them; None without any."""
        if not self.max_action_prefix:
            return None
        uniform = sample_uniform((len(tokens), 1), self.generator, tokens.device)
        steps = (uniform * (self.max_action_prefix + 1)).floor()
        step_of_token = torch.arange(self.num_tokens, device=tokens.device) // self.actions.width
        # Padding is never part of a prefix, as at inference.
        padding = self.actions.padding.repeat(self.actions.horizon)
        return tokens.masked_fill((step_of_token >= steps) | padding, -1)

    def _embed_corrupted(
        self, tokens: Tensor, tau: Tensor, valid: Tensor, prefix_tokens: Tensor | None
    ) -> Tensor:
        """Expert tokens ``(B, T, W)`` of noisy tokens; those of an action prefix have no noise."""
        if prefix_tokens is None and self.process.samples_projected:
            embedding = self.projection.embedding
            shape = (len(tokens), len(self.projection.positions), -1)
            projected = corrupt_projected(
                self.process,
                embedding.weight,
                tokens.view(shape),
                tau,
                self.generator,
                valid.view(shape),
            )
            return self.projection.add_positions(embedding.embed_projected(projected))
        x_tau = self.process.corrupt(tokens, tau, self.generator, valid)
        if prefix_tokens is not None:
            clean = self.process.inpaint(tokens, tau)
            x_tau = torch.where(prefix_tokens[..., None] < 0, x_tau, clean)
        return self._embed(x_tau, tau, prefix_tokens)

    def _embed(self, x_tau: Tensor, tau: Tensor, prefix_tokens: Tensor | None) -> Tensor:
        embedded = self.projection.embed(self.process.network_input(x_tau, tau))
        if prefix_tokens is None:
            return embedded
        values = self.tokenizer.decode(prefix_tokens.clamp(min=0))
        return self.projection.embedding.add_prefix(embedded, values, prefix_tokens >= 0)

    def _condition_on_estimate(self, embedded: Tensor, tau: Tensor, prefix: Prefix) -> Tensor:
        """Add the estimate of a first pass to half of the samples, under self-conditioning."""
        add_estimate = self.projection.embedding.add_estimate
        if not self.self_conditioning:
            return embedded
        # Computed for all samples, so that processes take the same number of passes.
        with torch.no_grad():
            logits = self._refine(add_estimate(embedded), tau, prefix)
        # Some versions of PyTorch would reuse weights that autocast has cast without gradients.
        torch.clear_autocast_cache()
        keep = sample_uniform((len(tau),), self.generator, tau.device) < 0.5
        return add_estimate(embedded, logits, keep)

    def _refine(self, embedded: Tensor, tau: Tensor, prefix: Prefix | ExpertCache) -> Tensor:
        """Logits ``(B, L, K)`` of expert tokens ``(B, T, W)``."""
        logits = self.projection.project_out(self.expert(embedded, prefix, tau))
        return logits.view(len(logits), self.num_tokens, self.process.num_bins)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take or check the spec; refuse guidance of weights that know no empty instruction.

        Raises:
            ValueError: If the policy is guided, but was trained without dropping instructions.
        """
        super().on_load_checkpoint(checkpoint)
        scale = 1 if self.guidance is None else self.guidance.scale
        settings = checkpoint.get("hyper_parameters")
        if scale != 1 and settings and not settings.get("guidance"):
            raise ValueError(
                "model.guidance.scale: expected 1 for weights that were trained without dropping "
                f"instructions, got {scale:g}. Train with guidance, or leave it out."
            )

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Log token accuracy, overall and by τ; flat in τ, x_τ does not inform the network."""
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log_accuracy("train")

    def on_validation_epoch_end(self) -> None:
        """Log token accuracy on held-out chunks."""
        if self._stage_accuracy().update_called:
            self._log_accuracy("val")

    def _stage_accuracy(self) -> TokenAccuracy:
        stage = "on_train" if self.training else "on_val"
        return cast(TokenAccuracy, self.accuracy[stage])

    def _log_accuracy(self, stage: str) -> None:
        accuracy = self._stage_accuracy()
        values = accuracy.compute()
        self.log(f"{stage}/token_accuracy", values["overall"])
        bins = pairwise(accuracy.edges.tolist())
        for (low, high), value in zip(bins, values["by_tau"], strict=True):
            if not value.isnan():
                self.log(f"{stage}/token_accuracy/tau_{low:g}-{high:g}", value)
        accuracy.reset()
