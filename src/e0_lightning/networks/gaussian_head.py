"""A head for classes that are numbers: logits around a predicted value."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GaussianHead(nn.Linear):
    """Logits of J tokens over K ordered bins: a predicted Gaussian, and plain logits added to it.

    ``logit_k = W_k h + b_k − ½ λ(h) (v_k − μ(h))²`` with the bin centers v in [-1, 1]; μ and ½ ln λ
    are linear in h. Another action is another μ, one number, where plain logits change in every
    bin; several ways are left to the plain logits, so that any distribution can be represented.
    Discretized densities are known from pixels (arXiv 1701.05517, 2107.03006).

    Args:
        width: Width W of the input.
        num_bins: Bins K.
        joined: Tokens J per input.
    """

    def __init__(self, width: int, num_bins: int, joined: int = 1) -> None:
        super().__init__(width, joined * num_bins)
        self.num_bins = num_bins
        self.gaussian = nn.Linear(width, 2 * joined)

    def forward(self, refined: Tensor) -> Tensor:
        """Logits ``(B, T, J·K)``, float32, of ``(B, T, W)``."""
        plain = super().forward(refined)
        weight, bias = self.gaussian.weight, self.gaussian.bias
        # Half precision has too few digits for the place within a bin.
        with torch.autocast(refined.device.type, enabled=False):
            mean, log_root = F.linear(refined.float(), weight.float(), bias.float()).chunk(2, -1)
            # No narrower than a bin.
            precision = (2 * log_root.clamp(max=math.log(self.num_bins))).exp()
            bins = torch.arange(self.num_bins, device=refined.device)
            centers = (bins + 0.5) * (2 / self.num_bins) - 1
            # Without the term of μ², which is the same for all bins.
            features = torch.stack([precision * mean, precision], dim=-1)
            powers = torch.stack([centers, -0.5 * centers.square()])
            return plain + (features @ powers).flatten(-2)
