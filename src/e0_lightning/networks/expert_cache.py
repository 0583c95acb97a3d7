"""What the action expert computes once for all passes over a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class ExpertCache:
    """The inputs of the expert's layers beside the action tokens.

    Args:
        keys: Keys of the prefix, one ``(B, kv_heads, P, head_dim)`` per layer of the expert; or
            ``(B, kv_heads, P + T, head_dim)``, with room for those of the action tokens.
        values: The same shapes.
        rotation: Rotary cosine and sine of the T action tokens.
        mask: ``(B, 1, T, P + T)``: bool, true where attention is allowed, or added to scores.
        present: ``(B, P + T)`` bool, false at padding of the prefix.
        modulation: Scales, shifts and gates of all norms, ``(N, 6 · depth + 2, W)``, a row for each
            of ``taus``, or one row if there is no diffusion time; None if not known yet.
        taus: Noise levels ``(N,)``.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    rotation: tuple[Tensor, Tensor]
    mask: Tensor
    present: Tensor
    modulation: Tensor | None = None
    taus: Tensor | None = None

    def split(self, lengths: Sequence[int]) -> list[ExpertCache]:
        """Caches of consecutive blocks of the T action tokens, in the same memory.

        Args:
            lengths: Tokens of each block, T together. A block attends to itself, and to what is
                before it.
        """
        past, caches = self.present.shape[1] - sum(lengths), []
        for end, length in zip(accumulate(lengths), lengths, strict=True):
            own, attended = slice(end - length, end), slice(past + end)
            caches.append(
                replace(
                    self,
                    keys=tuple(each[:, :, attended] for each in self.keys),
                    values=tuple(each[:, :, attended] for each in self.values),
                    rotation=(self.rotation[0][:, :, own], self.rotation[1][:, :, own]),
                    mask=self.mask[:, :, own, attended],
                    present=self.present[:, attended],
                )
            )
        return caches

    def modulation_at(self, tau: Tensor | None) -> Tensor:
        """Look up the modulation of each row, ``(B, 6 · depth + 2, W)``; of one row without τ.

        Raises:
            ValueError: If only one of τ and ``taus`` is None.
            RuntimeError: If a τ is not among ``taus``; raised late on a GPU, which is not waited
                for.
        """
        assert self.modulation is not None
        if tau is None or self.taus is None:
            if tau is not self.taus:
                raise ValueError(
                    f"tau: expected {'None' if self.taus is None else 'noise levels'}, got "
                    f"{'None' if tau is None else 'noise levels'}, unlike in prepare."
                )
            return self.modulation
        found = tau[:, None] == self.taus
        torch._assert_async(
            found.any(dim=1).all(),
            "tau: expected noise levels that the expert was prepared for, got another. A sampler "
            "that visits other levels than its schedule's returns them all from `taus`.",
        )
        return self.modulation[found.int().argmax(dim=1)]
