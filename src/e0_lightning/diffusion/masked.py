"""Masked diffusion: tokens replaced by a mask token and predicted in order of confidence."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from e0_lightning.diffusion.losses import cross_entropy
from e0_lightning.random import Generator, sample_tokens, sample_uniform

Predict = Callable[[Tensor], Tensor]
"""``tokens (B, L), K where masked → logits (B, L, K)``."""


class TokenMasking:
    """Masks each token with probability γ (Discrete Diffusion VLA, arXiv 2508.20072).

    ``γ = cos(π u / 2)``, u uniform, so that training covers the mask ratios of the sampler's cosine
    schedule. The network predicts the masked tokens under a cross-entropy.

    Args:
        num_bins: Bins K; the mask token is K.

    Raises:
        ValueError: If there are fewer than two bins.
    """

    def __init__(self, num_bins: int = 256) -> None:
        if num_bins < 2:
            raise ValueError(f"num_bins: expected 2 or more, got {num_bins}.")
        self.num_bins = num_bins

    @property
    def mask(self) -> int:
        """The mask token, K."""
        return self.num_bins

    def corrupt(self, tokens: Tensor, valid: Tensor, generator: Generator = None) -> Tensor:
        """Mask a random part of the valid tokens and all invalid ones, ``(B, L)``.

        Args:
            tokens: ``(B, L)`` int64 in [0, K).
            valid: ``(B, L)`` bool.
            generator: Random generator, or one per row.
        """
        ratio = torch.cos(math.pi / 2 * sample_uniform((len(tokens), 1), generator, tokens.device))
        masked = sample_uniform(tokens.shape, generator, tokens.device) < ratio
        return tokens.masked_fill(masked | ~valid, self.mask)

    def loss(self, logits: Tensor, tokens: Tensor, corrupted: Tensor, valid: Tensor) -> Tensor:
        """Mean cross-entropy over the valid masked tokens, a scalar in nats.

        Args:
            logits: ``(B, L, K)``.
            tokens: True tokens, ``(B, L)``.
            corrupted: Input of the network, ``(B, L)``.
            valid: ``(B, L)`` bool.
        """
        return cross_entropy(logits, tokens, valid & (corrupted == self.mask))


class ConfidenceSampler:
    """Unmasks the most confident tokens first and remasks tokens that become improbable.

    After round n of N, ``round(L cos(π n / 2 N))`` tokens are masked. A token is remasked, before
    any other, when its probability given the newer tokens is below ``min_probability · n / N``, or
    has fallen by more than ``max_drop`` since it was chosen (Discrete Diffusion VLA, section 3).

    Args:
        num_steps: Rounds N, calls of the network.
        temperature: T of ``p^(1/T)`` in the first round, decreasing linearly to 0, the most likely
            tokens, in the last.
        min_probability: Probability in [0, 1] below which a token is remasked in the last round.
        max_drop: Decrease of probability in [0, 1] above which a token is remasked.

    Raises:
        ValueError: If there is no round, T is negative, or a probability is outside [0, 1].
    """

    def __init__(
        self,
        num_steps: int = 12,
        temperature: float = 1.0,
        min_probability: float = 0.5,
        max_drop: float = 0.3,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps: expected 1 or more, got {num_steps}.")
        if temperature < 0:
            raise ValueError(f"temperature: expected 0 or a positive number, got {temperature}.")
        for name, value in (("min_probability", min_probability), ("max_drop", max_drop)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number between 0 and 1, got {value}.")
        self.num_steps = num_steps
        self.temperature = temperature
        self.min_probability = min_probability
        self.max_drop = max_drop

    def __call__(
        self,
        predict: Predict,
        process: TokenMasking,
        shape: tuple[int, int],
        generator: Generator = None,
        device: torch.device | str | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample tokens.

        Args:
            predict: The posterior over masked tokens given the others.
            process: The masking process.
            shape: ``(B, L)``.
            generator: Random generator, or one per row.
            device: Device to compute on; None is the CPU.
            valid: ``(L,)`` bool, false for padding tokens, which stay masked and outside of the
                schedule. None is all.

        Returns:
            Tokens ``(B, L)`` int64 in [0, K), and the logits ``(B, L, K)`` float32 of the last
            round.
        """
        if valid is None:
            valid = torch.ones(shape[1], dtype=torch.bool, device=device)
        length = int(valid.sum())
        tokens = torch.full(shape, process.mask, device=device)
        confidence = torch.ones(shape, device=device)
        logits = torch.zeros(*shape, process.num_bins, device=device)
        for index in range(1, self.num_steps + 1):
            progress = index / self.num_steps
            # In training, padding tokens are always masked.
            logits = predict(tokens.masked_fill(~valid, process.mask)).float()
            candidates = sample_tokens(logits, self.temperature * (1 - progress), generator)
            unmasked = tokens != process.mask
            tokens = tokens.where(unmasked, candidates)
            remask = unmasked & self._is_improbable(logits, tokens, confidence, progress)
            confidence = confidence.where(unmasked, _probability(logits, tokens))
            # Improbable tokens are masked first, then candidates, then unmasked tokens.
            order = (
                confidence.masked_fill(unmasked, 2.0)
                .masked_fill(remask, -1.0)
                .masked_fill(~valid, 3.0)
                .argsort(dim=-1, stable=True)
            )
            remaining = round(length * math.cos(math.pi / 2 * progress))
            tokens = tokens.scatter(-1, order[:, :remaining], process.mask)
        return tokens, logits

    def _is_improbable(
        self, logits: Tensor, tokens: Tensor, confidence: Tensor, progress: float
    ) -> Tensor:
        """Tokens ``(B, L)`` whose probability is too low or has fallen too far."""
        probability = _probability(logits, tokens)
        is_low = probability < self.min_probability * progress
        return is_low | (confidence - probability > self.max_drop)


def _probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Probability of given tokens, ``(B, L)``."""
    return logits.softmax(dim=-1).gather(-1, tokens[..., None]).squeeze(-1)
