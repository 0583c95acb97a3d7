"""E0: Tweedie discrete diffusion over action tokens (arXiv 2511.21542)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.inpainting import inpaint_denoiser
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.projected_noise import corrupt_projected
from e0_lightning.diffusion.samplers import Denoise, Sampler, TweedieSampler
from e0_lightning.metrics import TokenAccuracy
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.random import sample_uniform
from e0_lightning.types import ActionSample, Batch


class E0(Policy):
    """Classify noisy one-hot tokens, denoise a chunk by walking τ from 0 towards 1.

    ``x_τ = τ α e_k + (1 − τ) ε``; the expert estimates ``Pr(k | x_τ, observation)`` under a
    cross-entropy loss, the sampler turns that estimate into tokens (E0, eq. 3-12).

    Args:
        encoder: Observations to prefix.
        expert: Transformer over action tokens.
        actions: Robot units to normalized chunks.
        process: Noise on one-hot tokens, its bins K and its tau_distribution of τ.
        sampler: Rule, schedule and read-out.
        token_per: What the expert sees as one token: a ``dimension`` of a step, as in the paper, or
            a whole ``step``, its D one-hots side by side, at 1/D of the sequence length.
        self_conditioning: Let the expert also see an earlier estimate of the tokens (Analog Bits,
            arXiv 2208.04202): the step before's; half of training sees a first pass's.
        max_action_prefix: Most steps at the head of a chunk that training reveals, from none to all of
            these at random, and asks nothing about: how a chunk goes on from actions under way
            (arXiv 2512.05964). Without it only an x_τ that tells the network something does, and
            with α = 0.1 it hardly does.
        common: ``optimizer``, ``fine_tuning`` and ``weights`` of every :class:`Policy`.

    Raises:
        ValueError: If ``max_action_prefix`` is not below the horizon.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        process: OneHotDiffusion | None = None,
        sampler: Sampler | None = None,
        token_per: Literal["dimension", "step"] = "dimension",
        self_conditioning: bool = False,
        max_action_prefix: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        if not 0 <= max_action_prefix < actions.horizon:
            raise ValueError(
                f"max_action_prefix is {max_action_prefix}, the horizon {actions.horizon}; from 0 to "
                f"{actions.horizon - 1} steps are wanted, for one at least must be left to learn."
            )
        self.max_action_prefix = max_action_prefix
        self.process = process or OneHotDiffusion()
        self.sampler = sampler or TweedieSampler()
        self.token_per = token_per
        self.expert = expert.connect(encoder.language)
        self.tokenizer = ActionTokenizer(self.process.num_bins)
        joined = actions.width if token_per == "step" else 1
        self.tokens = actions.horizon * actions.width
        features = joined * self.process.num_bins
        embed = nn.Linear(features, expert.width)
        self.projection = ActionProjection(embed, self.tokens // joined, expert.width, features)
        self.accuracy = nn.ModuleDict({"on_train": TokenAccuracy(), "on_val": TokenAccuracy()})
        self.estimate = nn.Linear(expert.width, expert.width) if self_conditioning else None
        if self.estimate is not None:
            # Nothing at first, as if it were not there.
            nn.init.zeros_(self.estimate.weight)
            nn.init.zeros_(self.estimate.bias)
        self.begun = nn.Linear(2 * joined, expert.width, bias=False) if max_action_prefix else None

    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        """Cross-entropy of the tokens given their noisy one-hots (E0, eq. 5)."""
        tokens = self.tokenizer.encode(batch["actions"]).flatten(1)
        valid = self.actions.loss_mask(batch["valid"]).flatten(1)
        tau = self.process.tau_distribution.sample(len(tokens), device=tokens.device)
        known = self._reveal(tokens)
        entered = self._enter_corrupted(tokens, tau, valid, known)
        logits = self._refine(entered, tau, prefix, self._first_estimate(entered, tau, prefix))
        asked = valid if known is None else valid & (known < 0)
        self._accuracy().update(logits.detach(), tokens, asked, tau)
        return {"cross_entropy": self.process.loss(logits, tokens, asked)}

    def sample(self, prefix: Prefix) -> Tensor:
        """Denoise chunks from pure noise and read them off."""
        return E0.draw(self, prefix).actions

    def draw(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Denoise what is not decided, and tell how sure the last step was."""
        known = None if action_prefix is None else action_prefix.tokens(self.tokenizer)
        tokens, logits = self.sampler(
            self._denoiser(prefix, known),
            self.process,
            shape=(prefix.batch_size, self.tokens),
            device=prefix.mask.device,
        )
        values = self.tokenizer.read_out(tokens, logits, self.sampler.readout, self.sampler.window)
        chunk = values.view(prefix.batch_size, self.actions.horizon, self.actions.width)
        return ActionSample(chunk, self.actions.normalized_entropy(logits))

    def denoise(
        self,
        x_tau: Tensor,
        tau: Tensor,
        prefix: Prefix,
        estimate: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Logits ``(B, L, K)`` for noisy tokens ``(B, L, K)`` at ``tau`` ``(B,)``.

        Args:
            x_tau: ``(B, L, K)``.
            tau: ``(B,)``.
            prefix: The encoded observations.
            estimate: Logits of the step before, ``(B, L, K)``, seen under self-conditioning.
            known: ``(B, L)`` int64, decided tokens and −1 elsewhere; seen if training shows some.
        """
        seen = None if estimate is None else self._recall(estimate)
        return self._refine(self._tell(known, self._enter(x_tau)), tau, prefix, seen)

    def _denoiser(self, prefix: Prefix, known: Tensor | None) -> Denoise:
        """The posterior given known tokens, with its last answer where it sees that."""
        last: Tensor | None = None

        def denoise(x_tau: Tensor, tau: Tensor) -> Tensor:
            return self.denoise(x_tau, tau, prefix, last, known)

        informed = inpaint_denoiser(denoise, self.process, known)

        def remember(x_tau: Tensor, tau: Tensor) -> Tensor:
            nonlocal last
            last = informed(x_tau, tau)
            return last

        return informed if self.estimate is None else remember

    def _first_estimate(self, entered: Tensor, tau: Tensor, prefix: Prefix) -> Tensor | None:
        """What a first pass says, ``(B, T, W)``, zeros for every other sample."""
        if self.estimate is None:
            return None
        # For all samples, so that every process takes as many passes and none waits for another.
        with torch.no_grad():
            logits = self._refine(entered, tau, prefix)
        # Some versions of PyTorch would use weights again that autocast has cast without gradients.
        torch.clear_autocast_cache()
        kept = sample_uniform((len(tau), 1, 1), device=tau.device) < 0.5
        return self._recall(logits) * kept

    def _enter(self, x_tau: Tensor) -> Tensor:
        return self.projection.embed(x_tau.reshape(len(x_tau), len(self.projection.positions), -1))

    def _reveal(self, tokens: Tensor) -> Tensor | None:
        """Tokens that training shows, ``(B, L)``, and −1 elsewhere; None where it never does."""
        if not self.max_action_prefix:
            return None
        steps = sample_uniform((len(tokens), 1), device=tokens.device) * (
            self.max_action_prefix + 1
        )
        place = torch.arange(self.tokens, device=tokens.device) // self.actions.width
        # Padding is never told, as in acting.
        padding = self.actions.padding.repeat(self.actions.horizon)
        return tokens.masked_fill((place >= steps.floor()) | padding, -1)

    def _tell(self, known: Tensor | None, entered: Tensor) -> Tensor:
        """Add decided tokens as numbers, which carry the order that bins lack, ``(B, T, W)``."""
        if known is None or self.begun is None:
            return entered
        is_known = known >= 0
        values = self.tokenizer.decode(known.clamp(min=0)) * is_known
        told = torch.stack([values, is_known.to(values.dtype)], dim=-1)
        embedded: Tensor = self.begun(told.view(*entered.shape[:2], -1).to(entered.dtype))
        return entered + embedded

    def _enter_corrupted(
        self, tokens: Tensor, tau: Tensor, valid: Tensor, known: Tensor | None
    ) -> Tensor:
        """The expert's view of noisy tokens, whose one-hots need not be formed if none is known."""
        if known is not None:
            noisy = self.process.corrupt(tokens, tau, valid=valid)
            clear = self.process.inpaint(tokens, tau)
            x_tau = torch.where(known[..., None] < 0, noisy, clear)
            return self._tell(known, self._enter(x_tau))
        if not self.process.projected:
            return self._enter(self.process.corrupt(tokens, tau, valid=valid))
        layer, shape = (
            self.projection.embedding,
            (len(tokens), len(self.projection.positions), -1),
        )
        x_tau = corrupt_projected(
            self.process, layer.weight, tokens.view(shape), tau, valid=valid.view(shape)
        )
        return self.projection.add_positions(x_tau + layer.bias)

    def _refine(
        self, entered: Tensor, tau: Tensor, prefix: Prefix, seen: Tensor | None = None
    ) -> Tensor:
        """Logits ``(B, L, K)`` of embedded tokens, and of an embedded estimate, ``(B, T, W)``."""
        if self.estimate is not None:
            entered = entered + self.estimate(torch.zeros_like(entered) if seen is None else seen)
        logits = self.projection.project_out(self.expert(entered, prefix, tau))
        return logits.view(len(logits), self.tokens, self.process.num_bins)

    def _recall(self, estimate: Tensor) -> Tensor:
        """Logits as wide as tokens, ``(B, T, W)``, by the weights that embed noise."""
        # As long as noise where it is sure.
        certain = self.process.num_bins**0.5 * estimate.float().softmax(dim=-1)
        weight = self.projection.embedding.weight
        joined = certain.reshape(len(estimate), len(self.projection.positions), -1)
        return F.linear(joined.to(weight.dtype), weight)

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Log token accuracy, overall and against τ: does x_τ tell the network anything?"""
        super().on_train_batch_end(outputs, batch, batch_idx)  # type: ignore[arg-type]
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log_accuracy("train")

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy on held-out windows too."""
        super().on_validation_epoch_end()
        if self._accuracy().update_called:
            self._log_accuracy("val")

    def _accuracy(self) -> TokenAccuracy:
        """The count of the stage at hand."""
        stage = "on_train" if self.training else "on_val"
        return cast(TokenAccuracy, self.accuracy[stage])

    def _log_accuracy(self, stage: str) -> None:
        accuracy = self._accuracy()
        found = accuracy.compute()
        self.log(f"{stage}/token_accuracy", found["overall"])
        for (low, high), value in zip(
            pairwise(accuracy.edges.tolist()), found["by_tau"], strict=True
        ):
            if not value.isnan():
                self.log(f"{stage}_accuracy_by_tau/{low:g}-{high:g}", value)
        accuracy.reset()
