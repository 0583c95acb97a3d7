"""Classifier-free guidance by the instruction (arXiv 2207.12598)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from e0_lightning.diffusion.samplers import Denoise
from e0_lightning.random import Generator, sample_uniform


class InstructionGuidance:
    """Drops instructions in training, and moves sampling away from what needs no instruction.

    ``logits = ℓ_∅ + w (ℓ − ℓ_∅)``, ℓ given the instruction and ℓ_∅ the empty one: the posterior
    ``p_∅ (p / p_∅)^w`` up to its sum. A scale w above 1 follows the instruction more closely than
    the demonstrators did, at twice the cost of the language model and the expert.

    Args:
        dropout: Probability that a training sample has the empty instruction instead of its own.
        scale: Scale w in sampling; 1 samples as without guidance, at its cost, and 0 as with the
            empty instruction.

    Raises:
        ValueError: If the dropout is not between 0 and 1, or the scale is negative or not finite.
    """

    def __init__(self, dropout: float = 0.1, scale: float = 1.0) -> None:
        if not 0 < dropout < 1:
            raise ValueError(
                f"guidance.dropout: expected a probability between 0 and 1, got {dropout}. Set "
                "guidance to null for a policy without guidance."
            )
        if not 0 <= scale < math.inf:
            raise ValueError(f"guidance.scale: expected a finite number from 0, got {scale}.")
        self.dropout, self.scale = dropout, scale

    def drop(self, instructions: Sequence[str], generator: Generator = None) -> list[str]:
        """Replace instructions at random by the empty one."""
        uniform = sample_uniform((len(instructions),), generator).tolist()
        return [
            "" if value < self.dropout else instruction
            for instruction, value in zip(instructions, uniform, strict=True)
        ]

    def guide(self, denoise: Denoise) -> Denoise:
        """Combine the two posteriors of a denoiser of pairs.

        Args:
            denoise: Takes 2B rows: B that are given their instructions, then the same B without.

        Returns:
            A denoiser of B rows.
        """

        def guided(x_tau: Tensor, tau: Tensor) -> Tensor:
            logits = denoise(torch.cat([x_tau, x_tau]), torch.cat([tau, tau])).float()
            conditional, unconditional = logits.chunk(2)
            return torch.lerp(unconditional, conditional, self.scale)

        return guided
