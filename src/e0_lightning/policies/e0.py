"""E0: Tweedie discrete diffusion over action tokens (arXiv 2511.21542)."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

from torch import Tensor, nn

from e0_lightning.actions.space import ActionSpace
from e0_lightning.diffusion.process import OneHotDiffusion
from e0_lightning.diffusion.projected import corrupt_projected
from e0_lightning.diffusion.samplers import Sample, Sampler, TweedieSampler
from e0_lightning.metrics import TokenAccuracy
from e0_lightning.networks.expert import ActionExpert
from e0_lightning.networks.port import ActionPort
from e0_lightning.networks.prefix import Prefix, PrefixEncoder
from e0_lightning.policies.base import Policy
from e0_lightning.policies.readout import read_out, tokenizer_for
from e0_lightning.types import Batch


class E0(Policy):
    """Classify noisy one-hot tokens, denoise a chunk by walking τ from 0 towards 1.

    ``x_τ = τ α e_k + (1 − τ) ε``; the expert estimates ``Pr(k | x_τ, observation)`` under a
    cross-entropy loss, the sampler turns that estimate into tokens (E0, eq. 3-12).

    Args:
        encoder: Observations to prefix.
        expert: Transformer over action tokens.
        actions: Robot units to normalised chunks.
        process: Noise on one-hot tokens, its bins K and its density of τ.
        sampler: Rule, schedule and read-out.
        token_per: What the expert sees as one token: a ``dimension`` of a step, as in the paper, or
            a whole ``step``, its D one-hots side by side, at 1/D of the sequence length.
        common: ``optimization``, ``fine_tuning`` and ``weights`` of every :class:`Policy`.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        expert: ActionExpert,
        actions: ActionSpace,
        process: OneHotDiffusion | None = None,
        sampler: Sampler | None = None,
        token_per: Literal["dimension", "step"] = "dimension",
        **common: Any,
    ) -> None:
        super().__init__(encoder, actions, **common)
        self.process = process or OneHotDiffusion()
        self.sampler = sampler or TweedieSampler()
        self.token_per = token_per
        self.expert = expert
        self.tokenizer = tokenizer_for(self.process, self.sampler)
        joined = actions.width if token_per == "step" else 1
        self.tokens = actions.horizon * actions.width
        features = joined * self.process.num_bins
        embed = nn.Linear(features, expert.width)
        self.port = ActionPort(embed, self.tokens // joined, expert.width, features)
        self.accuracy = nn.ModuleDict({"on_train": TokenAccuracy(), "on_val": TokenAccuracy()})

    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        """Cross-entropy of the tokens given their noisy one-hots (E0, eq. 5)."""
        tokens = self.tokenizer.encode(batch["actions"]).flatten(1)
        valid = self.actions.counted(batch["valid"]).flatten(1)
        tau = self.process.density.sample(len(tokens), device=tokens.device)
        logits = self._refine(self._enter_corrupted(tokens, tau, valid), tau, prefix)
        self._accuracy().update(logits.detach(), tokens, valid, tau)
        return {"cross_entropy": self.process.loss(logits, tokens, valid)}

    def sample(self, prefix: Prefix) -> Tensor:
        """Denoise chunks from pure noise and read them off."""
        drawn: Sample = self.sampler(
            partial(self.denoise, prefix=prefix),
            self.process,
            shape=(prefix.batch_size, self.tokens),
            device=prefix.mask.device,
        )
        values = read_out(drawn, self.sampler, self.tokenizer)
        return values.view(prefix.batch_size, self.actions.horizon, self.actions.width)

    def denoise(self, x_tau: Tensor, tau: Tensor, prefix: Prefix) -> Tensor:
        """Logits ``(B, L, K)`` for noisy tokens ``(B, L, K)`` at ``tau`` ``(B,)``."""
        return self._refine(self._enter(x_tau), tau, prefix)

    def _enter(self, x_tau: Tensor) -> Tensor:
        return self.port.enter(x_tau.reshape(len(x_tau), len(self.port.positions), -1))

    def _enter_corrupted(self, tokens: Tensor, tau: Tensor, valid: Tensor) -> Tensor:
        """The expert's view of noisy tokens, whose one-hots need not be formed."""
        if not self.process.projected:
            return self._enter(self.process.corrupt(tokens, tau, valid=valid))
        layer, shape = cast(nn.Linear, self.port.embed), (len(tokens), len(self.port.positions), -1)
        x_tau = corrupt_projected(
            self.process, layer.weight, tokens.view(shape), tau, valid=valid.view(shape)
        )
        return self.port.place(x_tau + layer.bias)

    def _refine(self, entered: Tensor, tau: Tensor, prefix: Prefix) -> Tensor:
        """Logits ``(B, L, K)`` of embedded tokens."""
        logits = self.port.leave(self.expert(entered, tau, prefix))
        return logits.view(len(logits), self.tokens, self.process.num_bins)

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
