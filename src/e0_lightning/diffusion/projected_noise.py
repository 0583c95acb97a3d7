"""Noisy one-hots after a linear layer, sampled without forming the one-hots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.random import Generator, sample_normal


def corrupt_projected(
    process: OneHotDiffusion,
    weight: Tensor,
    tokens: Tensor,
    tau: Tensor,
    generator: Generator = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Sample a linear layer's output for ``x_τ``, equal in law to passing it the plain form.

    Without a matched filter, ``W x_τ = τ α W e_k + (1 − τ) W ε`` and ``W ε ~ N(0, W Wᵀ)``, so that
    W ε is sampled as ``C z`` with ``C Cᵀ = W Wᵀ`` (Cholesky) and z of the layer's width: memory
    ``L·width`` instead of ``L·K``. The matched filter's output on wide codes lies in few dimensions
    R and is sampled there (``process.code_basis``): memory ``L·(R + width)``. Gradients reach W
    through both terms; averaged over noise they equal those of the plain form.

    Args:
        process: The forward process.
        weight: The layer's weight W, ``(width, J·K)`` for J one-hots side by side.
        tokens: ``(B, T, J)`` int64 in [0, K).
        tau: ``(B,)`` in [0, 1].
        generator: Random generator, or one per row.
        valid: ``(B, T, J)`` bool; other tokens carry no signal. None is all.

    Returns:
        ``(B, T, width)`` float32, without the layer's bias.

    Raises:
        ValueError: If the weight does not have J·K inputs, or no fewer outputs than inputs where
            ``W Wᵀ`` is needed: it has no Cholesky factor then, and nothing is saved.
    """
    inputs, joined = weight.shape[1], tokens.shape[-1]
    if inputs != joined * process.num_bins:
        raise ValueError(
            f"weight: expected {joined * process.num_bins} inputs ({joined} one-hots of "
            f"{process.num_bins} bins), got {inputs}."
        )
    full = weight.float()
    level = tau.to(full.device, torch.float32)[:, None, None]
    present = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    has_basis = process.code_sigma and process.matched_filter
    sample = _sample_in_basis if has_basis else _sample_after_layer
    # In half precision, W Wᵀ may lose the positive definiteness that its factor needs.
    with torch.autocast(full.device.type, enabled=False):
        signal, noise = sample(process, full, tokens, present, generator)
        x_tau = level * process.alpha * signal + (1 - level) * noise
        return x_tau / process.input_norm(tau.to(full.device)) if process.matched_filter else x_tau


def _sample_in_basis(
    process: OneHotDiffusion, weight: Tensor, tokens: Tensor, valid: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Signal and noise after the layer, each ``(B, T, width)``, from their coordinates."""
    basis = process.code_basis(weight.device)
    layer = (weight.view(len(weight), tokens.shape[-1], -1) @ basis).flatten(1)
    signal = (F.embedding(tokens, basis) * valid[..., None]).flatten(2)
    noise = sample_normal(signal.shape, generator, weight.device)
    return signal @ layer.T, noise @ layer.T


def _sample_after_layer(
    process: OneHotDiffusion, weight: Tensor, tokens: Tensor, valid: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Signal and noise after the layer, each ``(B, T, width)``, from the layer's covariance."""
    width, inputs = weight.shape
    if width >= inputs:
        raise ValueError(
            f"projected: expected a layer with fewer outputs than its {inputs} inputs, got {width} "
            "outputs. Set projected to false, or use more bins."
        )
    factor = torch.linalg.cholesky(weight @ weight.T)
    noise = sample_normal((*tokens.shape[:2], width), generator, weight.device) @ factor.T
    columns = weight
    if process.code_sigma:
        codes = process.codes(weight.device)
        columns = (weight.view(width, tokens.shape[-1], -1) @ codes.T).flatten(1)
    indices = tokens + process.num_bins * torch.arange(tokens.shape[-1], device=tokens.device)
    return (F.embedding(indices, columns.T) * valid[..., None]).sum(dim=-2), noise
