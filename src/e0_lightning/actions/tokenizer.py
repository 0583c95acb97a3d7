"""Action tokens: bins of a uniform grid over normalized actions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


class ActionTokenizer:
    """K uniform bins over [-1, 1]; a round trip errs by at most ``1 / K``, outliers saturate.

    ``k = clip(floor((x + 1) / 2 · K), 0, K − 1)``; a bin decodes to its center
    ``2 (k + ½) / K − 1``, or to its left edge ``2 k / K − 1`` as in the released code of E0, which
    doubles the worst error to ``2 / K``.

    Args:
        num_bins: Bins K.
        decode_to: Point of a bin that it decodes to.

    Raises:
        ValueError: If there are fewer than two bins, or ``decode_to`` is none of the two points.
    """

    def __init__(
        self, num_bins: int = 2048, decode_to: Literal["center", "left_edge"] = "center"
    ) -> None:
        if num_bins < 2:
            raise ValueError(f"num_bins: expected 2 or more, got {num_bins}.")
        if decode_to not in ("center", "left_edge"):
            raise ValueError(f"decode_to: expected 'center' or 'left_edge', got {decode_to!r}.")
        self.num_bins = num_bins
        self.decode_to = decode_to

    def encode(self, normalized: Tensor) -> Tensor:
        """Quantize values.

        Args:
            normalized: ``(…, D)``; values outside [-1, 1] saturate to the first or last bin.

        Returns:
            ``(…, D)`` int64 in [0, K).
        """
        return self._position(normalized).floor().clamp(0, self.num_bins - 1).long()

    def offset(self, normalized: Tensor) -> Tensor:
        """Distance of values ``(…, D)`` from the centers of their bins, in bins, within ±½.

        That of a value outside [-1, 1], which saturates, is that of the end of the grid.
        """
        position = self._position(normalized).clamp(0, self.num_bins)
        return position - self.encode(normalized) - 0.5

    def _position(self, normalized: Tensor) -> Tensor:
        """Place on the grid, from 0 to K."""
        # bfloat16 has 8 bits of mantissa, too few for 2048 bins.
        precise = normalized.to(torch.promote_types(normalized.dtype, torch.float32))
        return (precise + 1) * (self.num_bins / 2)

    def decode(self, tokens: Tensor) -> Tensor:
        """Values of tokens, ``(…, D)`` float32 in [-1, 1]."""
        return self._value(tokens, offset=0.5 if self.decode_to == "center" else 0.0)

    def expect(self, logits: Tensor, window: int | None = None) -> Tensor:
        """Mean of the bin centers under a distribution over bins, finer than a bin.

        Args:
            logits: ``(…, D, K)``.
            window: If given, only bins at most this far from the most likely one are included, so
                that separate modes are not averaged.

        Returns:
            ``(…, D)`` float32 in [-1, 1].

        Raises:
            ValueError: If the logits have another number of bins, or the window is negative.
        """
        if logits.shape[-1] != self.num_bins:
            raise ValueError(f"logits: expected {self.num_bins} bins, got {logits.shape[-1]}.")
        logits = logits.float()
        bins = torch.arange(self.num_bins, device=logits.device)
        if window is not None:
            if window < 0:
                raise ValueError(f"window: expected 0 bins or more, or None, got {window}.")
            offsets = torch.arange(-window, window + 1, device=logits.device)
            bins = logits.argmax(dim=-1, keepdim=True) + offsets
            outside = (bins < 0) | (bins >= self.num_bins)
            bins = bins.clamp(0, self.num_bins - 1)
            logits = logits.gather(-1, bins).masked_fill(outside, -torch.inf)
        return (logits.softmax(dim=-1) * self._value(bins, offset=0.5)).sum(dim=-1)

    def read_out(
        self, tokens: Tensor, logits: Tensor, readout: str, window: int | None = None
    ) -> Tensor:
        """Values of a sampler's result.

        Args:
            tokens: Chosen tokens, ``(B, L)``.
            logits: Their posterior, ``(B, L, K)``.
            readout: ``center`` or ``left_edge`` of the chosen bins, ``expectation`` over all bins,
                or ``local`` expectation within ``window``.
            window: Bins on either side of the most likely one, for ``local``.

        Returns:
            ``(B, L)`` float32 in [-1, 1].

        Raises:
            ValueError: If the read-out is none of these.
        """
        match readout:
            case "center":
                return self._value(tokens, offset=0.5)
            case "left_edge":
                return self._value(tokens, offset=0.0)
            case "expectation":
                return self.expect(logits)
            case "local":
                return self.expect(logits, window)
        raise ValueError(
            f"readout: expected 'center', 'left_edge', 'expectation' or 'local', got {readout!r}."
        )

    def _value(self, tokens: Tensor, offset: float) -> Tensor:
        return (tokens.float() + offset) * (2 / self.num_bins) - 1
