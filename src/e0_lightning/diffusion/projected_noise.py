"""Noisy one-hots as a linear layer sees them, drawn without ever forming one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.random import sample_normal


def corrupt_projected(
    process: OneHotDiffusion,
    weight: Tensor,
    tokens: Tensor,
    tau: Tensor,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Draw ``W x_τ``, equal in law to projecting what the process draws.

    ``W x_τ = τ α W e_k + (1 − τ) W ε`` and ``W ε ~ N(0, W Wᵀ)``, so that ``C z`` with
    ``C Cᵀ = W Wᵀ`` (Cholesky) and z of the layer's width stands for it: memory ``L·width`` in place
    of ``L·K``. Gradients reach W by both terms; in the mean over noise they are those of the plain
    form.

    Args:
        process: The forward process, for its K and α.
        weight: The layer's weight W, ``(width, J·K)`` for J one-hots side by side.
        tokens: ``(B, T, J)`` int64 in [0, K).
        tau: ``(B,)`` in [0, 1].
        generator: What decides the noise; None is torch's own.
        valid: ``(B, T, J)`` bool; the others carry no signal. None is all.

    Returns:
        ``(B, T, width)`` float32, without the layer's bias.

    Raises:
        ValueError: If the weight is not over J·K inputs, or has as many rows or more, where
            ``W Wᵀ`` has no Cholesky factor and nothing would be saved.
    """
    width, inputs = weight.shape
    joined = tokens.shape[-1]
    if inputs != joined * process.num_bins:
        raise ValueError(
            f"a weight over {inputs} inputs; {joined} tokens of {process.num_bins} bins need "
            f"{joined * process.num_bins}."
        )
    if width >= inputs:
        raise ValueError(
            f"a weight of {width} rows over {inputs} inputs; projected noise needs fewer rows than "
            "inputs. Draw the plain noise, or use more bins."
        )
    precise = weight.float()
    level = tau.to(precise.device, torch.float32)[:, None, None]
    # In half precision, the product could lose the positive definiteness a factor needs.
    with torch.autocast(precise.device.type, enabled=False):
        factor = torch.linalg.cholesky(precise @ precise.T)
        noise = sample_normal((*tokens.shape[:2], width), generator, precise.device) @ factor.T
        seen = precise
        if process.code_sigma:
            seen = (seen.view(width, joined, -1) @ process.codes(seen.device).T).flatten(1)
    columns = tokens + process.num_bins * torch.arange(joined, device=tokens.device)
    signal = F.embedding(columns, seen.T)
    if valid is not None:
        signal = signal * valid[..., None]
    x_tau: Tensor = level * process.alpha * signal.sum(dim=-2) + (1 - level) * noise
    return x_tau
