"""Token losses: cross-entropy, also with Gaussian soft targets, averaged over valid tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` where ``valid``, bool of the same shape; 0 if nothing is valid.

    In training on several processes, whose gradients are averaged, the sum is divided by the mean
    number of valid values of a process, so that the average over processes is the mean over the
    values of all, whatever their masks.
    """
    count = valid.sum()
    # In validation, without gradients, processes may have different numbers of batches.
    if values.requires_grad and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        share = count.clamp(min=1) / distributed.get_world_size()
    else:
        share = count.clamp(min=1)
    return torch.where(valid, values, 0.0).sum() / share


def cross_entropy(
    logits: Tensor,
    tokens: Tensor,
    valid: Tensor,
    target_sigma: float = 0.0,
    offset: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy over valid tokens, in nats.

    With ``target_sigma`` σ > 0 the target is a Gaussian over the bins around the true one,
    ``∝ exp(−(j − k − o)² / 2 σ²)`` for ``|j − k| ≤ 4 σ``, renormalized at the ends of the grid. The
    offsets o of the values center it on the value, not on its bin, so that its mean is finer than a
    bin (HL-Gauss, arXiv 2403.03950).

    Args:
        logits: ``(B, L, K)``.
        tokens: ``(B, L)`` int64 in [0, K); any value where not valid.
        valid: ``(B, L)`` bool.
        target_sigma: Standard deviation σ in bins; 0 is a one-hot target.
        offset: Distances o of the values from the centers of their bins, in bins, ``(B, L)``; None
            is 0. One-hot targets have none.

    Returns:
        Scalar, computed in float32; 0 if nothing is valid.
    """
    num_bins, radius = logits.shape[-1], math.ceil(4 * target_sigma)
    offsets = torch.arange(-radius, radius + 1, device=logits.device)
    # Invalid tokens may hold any value; without a bin, their weights would divide by zero.
    bins = tokens.clamp(0, num_bins - 1)[..., None] + offsets
    distance = offsets
    if target_sigma and offset is not None:
        distance = offsets - offset.masked_fill(~valid, 0.0)[..., None]
    weights = torch.exp(-0.5 * (distance / max(target_sigma, 1e-6)) ** 2)
    weights = torch.where((bins >= 0) & (bins < num_bins), weights, 0.0)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    # Gathering the few bins with weight avoids a target as large as the logits.
    nearby = logits.float().log_softmax(dim=-1).gather(-1, bins.clamp(0, num_bins - 1))
    return masked_mean(-(weights * nearby).sum(dim=-1), valid)
