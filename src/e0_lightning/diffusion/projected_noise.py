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
    """Sample ``W x_τ``, equal in law to projecting a sample of ``process.corrupt``.

    ``W x_τ = τ α W e_k + (1 − τ) W ε`` and ``W ε ~ N(0, W Wᵀ)``, so that W ε is sampled as ``C z``
    with ``C Cᵀ = W Wᵀ`` (Cholesky) and z of the layer's width: memory ``L·width`` instead of
    ``L·K``. Gradients reach W through both terms; averaged over noise they equal those of the plain
    form.

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
        ValueError: If the weight does not have J·K inputs, or has fewer inputs than outputs, in
            which case ``W Wᵀ`` has no Cholesky factor and nothing is saved.
    """
    width, inputs = weight.shape
    joined = tokens.shape[-1]
    if inputs != joined * process.num_bins:
        raise ValueError(
            f"weight: expected {joined * process.num_bins} inputs ({joined} one-hots of "
            f"{process.num_bins} bins), got {inputs}."
        )
    if width >= inputs:
        raise ValueError(
            f"projected: expected a layer with fewer outputs than its {inputs} inputs, got {width} "
            "outputs. Set projected to false, or use more bins."
        )
    full = weight.float()
    level = tau.to(full.device, torch.float32)[:, None, None]
    # In half precision, W Wᵀ may lose the positive definiteness that the factor needs.
    with torch.autocast(full.device.type, enabled=False):
        factor = torch.linalg.cholesky(full @ full.T)
        noise = sample_normal((*tokens.shape[:2], width), generator, full.device) @ factor.T
        columns = full
        if process.code_sigma:
            codes = process.codes(full.device)
            columns = (full.view(width, joined, -1) @ codes.T).flatten(1)
    indices = tokens + process.num_bins * torch.arange(joined, device=tokens.device)
    signal = F.embedding(indices, columns.T)
    if valid is not None:
        signal = signal * valid[..., None]
    x_tau: Tensor = level * process.alpha * signal.sum(dim=-2) + (1 - level) * noise
    return x_tau
