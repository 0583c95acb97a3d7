"""From what a sampler ends with to normalized values, as its read-out says."""

from __future__ import annotations

from torch import Tensor

from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import Sample, Sampler


def tokenizer_for(process: OneHotDiffusion, sampler: Sampler) -> ActionTokenizer:
    """The bins of the process, each read back at the point that the sampler's read-out names."""
    edge = sampler.readout == "left_edge"
    return ActionTokenizer(process.num_bins, "left_edge" if edge else "center")


def read_out(drawn: Sample, sampler: Sampler, tokenizer: ActionTokenizer) -> Tensor:
    """Normalised values ``(B, L)`` of drawn tokens, or of their last posterior."""
    match sampler.readout:
        case "expectation":
            return tokenizer.expect(drawn.logits)
        case "local":
            return tokenizer.expect(drawn.logits, sampler.window)
        case _:
            return tokenizer.decode(drawn.tokens)
