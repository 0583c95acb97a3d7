"""Projections between actions and the tokens of the action expert."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Embedding = TypeVar("Embedding", bound=nn.Module)


class ActionProjection(nn.Module, Generic[Embedding]):
    """Embedding and learned positions before the expert, a head after it.

    Args:
        embedding: Maps actions ``(B, T, …)`` or ``(B, T)`` to ``(B, T, width)``.
        length: Expert tokens T of a chunk.
        width: Width W of the expert.
        head: Maps the expert's tokens ``(B, T, width)`` to ``(B, T, outputs)``; a number of outputs
            is a linear layer.
    """

    def __init__(
        self, embedding: Embedding, length: int, width: int, head: int | nn.Module
    ) -> None:
        super().__init__()
        self.embedding: Embedding = embedding
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.head = nn.Linear(width, head) if isinstance(head, int) else head
        # As strong as embedded noise, of deviation 1/√3 at first: much weaker ones are lost in it,
        # and the network is slow to learn which step of the chunk a token stands for.
        nn.init.normal_(self.positions, std=0.5)

    def embed(self, actions: Tensor, start: int = 0) -> Tensor:
        """Expert tokens ``(B, T, W)``, the first one at position ``start``."""
        return self.add_positions(self.embedding(actions), start)

    def add_positions(self, embedded: Tensor, start: int = 0) -> Tensor:
        """Add positions to embedded tokens, ``(B, T, W)``."""
        return embedded + self.positions[start : start + embedded.shape[1]]

    def project_out(self, refined: Tensor) -> Tensor:
        """Project the expert's tokens ``(B, T, W)`` to ``(B, T, outputs)``."""
        out: Tensor = self.head(refined)
        return out


class NoisyTokenEmbedding(nn.Linear):
    """Linear embedding of noisy one-hots, J of them side by side per expert token.

    Further inputs are added to the embedding: an earlier estimate of the tokens
    (:meth:`add_estimate`) and the action prefix (:meth:`add_prefix`).

    Args:
        num_bins: Bins K.
        width: Width W of the expert.
        joined: One-hots J per expert token: 1, or D for one expert token per step.
        self_conditioning: Embed an earlier estimate (Analog Bits, arXiv 2208.04202). Zero at
            initialization.
        action_prefix: Embed an action prefix.
        unit_input: Initialize for one-hots of norm 1, so that their embedding has the deviation
            that PyTorch's initialization gives it for inputs of deviation 1.
    """

    def __init__(
        self,
        num_bins: int,
        width: int,
        joined: int = 1,
        self_conditioning: bool = False,
        action_prefix: bool = False,
        unit_input: bool = False,
    ) -> None:
        super().__init__(joined * num_bins, width)
        self.input_norm = 1.0 if unit_input else num_bins**0.5
        if unit_input:
            nn.init.uniform_(self.weight, -(joined**-0.5), joined**-0.5)
        self.num_bins = num_bins
        self.joined = joined
        self.estimate = nn.Linear(width, width) if self_conditioning else None
        if self.estimate is not None:
            nn.init.zeros_(self.estimate.weight)
            nn.init.zeros_(self.estimate.bias)
        self.prefix = nn.Linear(2 * joined, width, bias=False) if action_prefix else None

    def forward(self, x_tau: Tensor) -> Tensor:
        """Embed noisy one-hots ``(B, L, K)`` as ``(B, T, W)``."""
        return super().forward(self._join(x_tau))

    def embed_projected(self, projected: Tensor) -> Tensor:
        """Embed a sample ``(B, T, W)`` of ``corrupt_projected`` with the weight of this layer."""
        return projected + self.bias

    def add_estimate(
        self, embedded: Tensor, logits: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Add an earlier estimate of the tokens; nothing without self-conditioning.

        Args:
            embedded: ``(B, T, W)``.
            logits: The estimate, ``(B, L, K)``; None is no estimate, a zero input.
            keep: ``(B,)`` bool, rows that receive the estimate; None is all.
        """
        if self.estimate is None:
            return embedded
        estimate = torch.zeros_like(embedded)
        if logits is not None:
            # Scaled to the norm of noise, for a certain estimate.
            scaled = self.input_norm * logits.float().softmax(dim=-1)
            estimate = F.linear(self._join(scaled).to(self.weight.dtype), self.weight)
        if keep is not None:
            estimate = estimate * keep[:, None, None]
        conditioned: Tensor = embedded + self.estimate(estimate)
        return conditioned

    def add_prefix(self, embedded: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Add an action prefix as numbers, which carry the order of bins; nothing if not built.

        Args:
            embedded: ``(B, T, W)``.
            values: Normalized actions of the prefix, ``(B, L)``; ignored where not ``mask``.
            mask: ``(B, L)`` bool, true in the prefix.
        """
        if self.prefix is None:
            return embedded
        inputs = torch.stack([values.masked_fill(~mask, 0.0), mask.to(values.dtype)], dim=-1)
        inputs = inputs.view(*embedded.shape[:2], -1).to(embedded.dtype)
        conditioned: Tensor = embedded + self.prefix(inputs)
        return conditioned

    def _join(self, tokens: Tensor) -> Tensor:
        """One-hots ``(B, L, K)`` as inputs of expert tokens, ``(B, T, J·K)``."""
        return tokens.reshape(len(tokens), -1, self.joined * self.num_bins)
