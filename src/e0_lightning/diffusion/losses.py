"""Means over what counts, whatever lies elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` where ``valid``, bool of the same shape; 0 where nothing is."""
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def cross_entropy(logits: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy over valid tokens, in nats.

    Args:
        logits: ``(B, L, K)``.
        tokens: ``(B, L)`` int64 in [0, K).
        valid: ``(B, L)`` bool.

    Returns:
        Scalar, computed in float32; 0 where nothing is valid.
    """
    entropy = F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none")
    return masked_mean(entropy.view(tokens.shape), valid)
