"""Where action tokens enter the expert and leave it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ActionProjection(nn.Module):
    """An embedding with learned positions before the expert, a linear read-out after it.

    Args:
        embedding: What stands for an action, ``(B, T, …)`` or ``(B, T)``, to ``(B, T, width)``.
        length: Tokens T of a chunk.
        width: Width W of the expert.
        outputs: Numbers read off each token.
    """

    def __init__(self, embedding: nn.Module, length: int, width: int, outputs: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.head = nn.Linear(width, outputs)
        nn.init.normal_(self.positions, std=0.02)

    def embed(self, actions: Tensor, start: int = 0) -> Tensor:
        """Tokens for the expert, ``(B, T, W)``, of which the first has position ``start``."""
        return self.add_positions(self.embedding(actions), start)

    def add_positions(self, embedded: Tensor, start: int = 0) -> Tensor:
        """Add positions to what is already embedded, ``(B, T, W)``."""
        return embedded + self.positions[start : start + embedded.shape[1]]

    def project_out(self, refined: Tensor) -> Tensor:
        """Read the expert's tokens ``(B, T, W)`` as ``(B, T, outputs)``."""
        out: Tensor = self.head(refined)
        return out
