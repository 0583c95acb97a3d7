"""Normalised actions to bins of a uniform grid, and back."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


class ActionTokenizer:
    """K uniform bins over [-1, 1]; a round trip errs by at most ``1 / K``, outliers saturate.

    ``k = clip(floor((x + 1) / 2 · K), 0, K − 1)``; a bin is read back at its centre
    ``2 (k + ½) / K − 1``, or at its left edge ``2 k / K − 1`` as the released code of E0 does,
    which doubles the worst error to ``2 / K``.

    Args:
        num_bins: Bins K.
        decode_to: The point of a bin that stands for it.

    Raises:
        ValueError: If there are fewer than two bins, or ``decode_to`` names no point.
    """

    def __init__(
        self, num_bins: int = 2048, decode_to: Literal["center", "left_edge"] = "center"
    ) -> None:
        if num_bins < 2:
            raise ValueError(f"num_bins is {num_bins}; a grid needs 2 bins or more.")
        if decode_to not in ("center", "left_edge"):
            raise ValueError(f"decode_to is {decode_to!r}; choose 'center' or 'left_edge'.")
        self.num_bins = num_bins
        self.decode_to = decode_to

    def encode(self, normalized: Tensor) -> Tensor:
        """Find the bin of every value.

        Args:
            normalized: ``(…, D)``, meant for [-1, 1]; outliers go to the first or last bin.

        Returns:
            ``(…, D)`` int64 in [0, K).
        """
        # bfloat16 has 8 bits of mantissa: too few to tell 2048 bins apart.
        precise = normalized.to(torch.promote_types(normalized.dtype, torch.float32))
        position = (precise + 1) * (self.num_bins / 2)
        return position.floor().clamp(0, self.num_bins - 1).long()

    def decode(self, tokens: Tensor) -> Tensor:
        """Read bins back as values, ``(…, D)`` float32 in [-1, 1]."""
        return self._value(tokens, offset=0.5 if self.decode_to == "center" else 0.0)

    def expect(self, logits: Tensor, window: int | None = None) -> Tensor:
        """Mean of the bin centres under a distribution over bins, finer than a bin.

        Args:
            logits: ``(…, D, K)``.
            window: Where given, only bins at most this far from the most likely one count, so that
                separate modes are not averaged.

        Returns:
            ``(…, D)`` float32 in [-1, 1].

        Raises:
            ValueError: If the logits are over another number of bins, or the window is negative.
        """
        if logits.shape[-1] != self.num_bins:
            raise ValueError(
                f"logits over {logits.shape[-1]} bins; this tokenizer has {self.num_bins}."
            )
        logits = logits.float()
        bins = torch.arange(self.num_bins, device=logits.device)
        if window is not None:
            if window < 0:
                raise ValueError(
                    f"window is {window}; give 0 bins or more, or None for all of them."
                )
            offsets = torch.arange(-window, window + 1, device=logits.device)
            bins = logits.argmax(dim=-1, keepdim=True) + offsets
            outside = (bins < 0) | (bins >= self.num_bins)
            bins = bins.clamp(0, self.num_bins - 1)
            logits = logits.gather(-1, bins).masked_fill(outside, -torch.inf)
        return (logits.softmax(dim=-1) * self._value(bins, offset=0.5)).sum(dim=-1)

    def _value(self, tokens: Tensor, offset: float) -> Tensor:
        return (tokens.float() + offset) * (2 / self.num_bins) - 1
