"""Masked diffusion: tokens hidden behind a mask, and found again in the order of confidence."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from e0_lightning.diffusion.losses import cross_entropy
from e0_lightning.random import sample_tokens, sample_uniform

Predict = Callable[[Tensor], Tensor]
"""``tokens (B, L), K where masked → logits (B, L, K)``."""


class TokenMasking:
    """Hides each token with a probability γ (Discrete Diffusion VLA, arXiv 2508.20072).

    ``γ = cos(π u / 2)``, u uniform, so that training sees the shares of masks that the sampler's
    cosine schedule passes through. The network fills in the hidden tokens, under a cross-entropy.

    Args:
        num_bins: Bins K; the mask is token K.

    Raises:
        ValueError: If there are fewer than two bins.
    """

    def __init__(self, num_bins: int = 256) -> None:
        if num_bins < 2:
            raise ValueError(f"num_bins is {num_bins}; tokens need 2 bins or more.")
        self.num_bins = num_bins

    @property
    def mask(self) -> int:
        """The token that hides another: K."""
        return self.num_bins

    def corrupt(
        self, tokens: Tensor, valid: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Hide tokens, ``(B, L)``: some valid ones, and all the others.

        Args:
            tokens: ``(B, L)`` int64 in [0, K).
            valid: ``(B, L)`` bool.
            generator: What decides the draws; None is torch's own.
        """
        share = torch.cos(math.pi / 2 * sample_uniform((len(tokens), 1), generator, tokens.device))
        hidden = sample_uniform(tokens.shape, generator, tokens.device) < share
        return tokens.masked_fill(hidden | ~valid, self.mask)

    def loss(self, logits: Tensor, tokens: Tensor, corrupted: Tensor, valid: Tensor) -> Tensor:
        """Mean cross-entropy over the valid tokens that were hidden, a scalar in nats.

        Args:
            logits: ``(B, L, K)``.
            tokens: The true tokens, ``(B, L)``.
            corrupted: What the network saw, ``(B, L)``.
            valid: ``(B, L)`` bool.
        """
        return cross_entropy(logits, tokens, valid & (corrupted == self.mask))


class ConfidenceSampler:
    """Uncovers the most confident tokens first, and hides again those it comes to doubt.

    After round n of N, ``round(L cos(π n / 2 N))`` tokens are hidden. A token is doubted, and
    hidden again before any other, when its probability given the newer tokens is below
    ``floor · n / N``, or has fallen by more than ``drop`` since it was chosen (Discrete Diffusion
    VLA, section 3).

    Args:
        num_steps: Rounds N, calls of the network.
        temperature: T of ``p^(1/T)`` in the first round, falling linearly to 0, the most likely
            tokens, in the last.
        floor: Probability in [0, 1] below which a token is doubted in the end.
        drop: Loss of probability in [0, 1] from which on a token is doubted.

    Raises:
        ValueError: If there is no round, T is negative, or a probability is outside [0, 1].
    """

    def __init__(
        self,
        num_steps: int = 12,
        temperature: float = 1.0,
        floor: float = 0.5,
        drop: float = 0.3,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; sampling needs 1 round or more.")
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; give 0 or a positive number.")
        for name, value in (("floor", floor), ("drop", drop)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; give a probability between 0 and 1.")
        self.num_steps = num_steps
        self.temperature = temperature
        self.floor = floor
        self.drop = drop

    def __call__(
        self,
        predict: Predict,
        process: TokenMasking,
        shape: tuple[int, int],
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        counted: Tensor | None = None,
    ) -> Tensor:
        """Draw tokens.

        Args:
            predict: The posterior over hidden tokens given the others.
            process: The process to undo.
            shape: ``(B, L)``.
            generator: What decides every draw; None is torch's own.
            device: Where to work; None is the CPU.
            counted: ``(L,)`` bool, false for tokens that mean nothing: they are no part of the
                schedule. None counts all.

        Returns:
            ``(B, L)`` int64 in [0, K).
        """
        if counted is None:
            counted = torch.ones(shape[1], dtype=torch.bool, device=device)
        length = int(counted.sum())
        tokens = torch.full(shape, process.mask, device=device)
        confidence = torch.ones(shape, device=device)
        for index in range(1, self.num_steps + 1):
            progress = index / self.num_steps
            # In training, too, what means nothing is always hidden.
            logits = predict(tokens.masked_fill(~counted, process.mask)).float()
            drawn = sample_tokens(logits, self.temperature * (1 - progress), generator)
            known = tokens != process.mask
            doubted = known & self._doubt(logits, tokens.where(known, drawn), confidence, progress)
            tokens = tokens.where(known, drawn)
            confidence = confidence.where(known, _probability(logits, tokens))
            # Candidates are hidden before known tokens, and doubted ones before both.
            order = (
                confidence.masked_fill(known, 2.0)
                .masked_fill(doubted, -1.0)
                .masked_fill(~counted, 3.0)
                .argsort(dim=-1, stable=True)
            )
            remaining = round(length * math.cos(math.pi / 2 * progress))
            tokens = tokens.scatter(-1, order[:, :remaining], process.mask)
        return tokens

    def _doubt(self, logits: Tensor, tokens: Tensor, confidence: Tensor, progress: float) -> Tensor:
        """Which tokens ``(B, L)`` are no longer as probable as they should be."""
        now = _probability(logits, tokens)
        return (now < self.floor * progress) | (confidence - now > self.drop)


def _probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Probability of given tokens, ``(B, L)``."""
    return logits.softmax(dim=-1).gather(-1, tokens[..., None]).squeeze(-1)
