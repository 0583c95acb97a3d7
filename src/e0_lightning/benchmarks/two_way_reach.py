"""A synthetic reach with a known action distribution: two ways around an obstacle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from e0_lightning.random import sample_normal, sample_uniform
from e0_lightning.types import Batch, Observation, PolicySpec

HORIZON = 12
"""Steps of a chunk."""

SPAN, HEIGHT, RADIUS = 0.9, 0.5, 0.3
"""Chunks go from x = -SPAN to x = SPAN and pass the obstacle, a disk of this radius, this far above
or below its center."""

NOISE = 0.03
"""Standard deviation of the demonstrator's actions around a way, in each of 24 coordinates."""

TOLERANCE = 4.1 * NOISE
"""Deviation from its way, in one coordinate, that one demonstrated chunk in 1 000 exceeds."""

SPEC = PolicySpec({}, {"obstacle": 1}, action_dim=2, control_mode="reach", horizon=HORIZON)


def ways(obstacle: Tensor) -> Tensor:
    """Return the ways over and under obstacles.

    Args:
        obstacle: Heights of their centers, ``(B,)``.

    Returns:
        ``(B, 2, H, 2)``: over and under, then (x, y) per step.
    """
    progress = torch.linspace(0, 1, HORIZON)
    rise = torch.sin(math.pi * progress)
    side = torch.tensor([HEIGHT, -HEIGHT])
    y = (obstacle[:, None, None] + side[:, None]) * rise
    x = (SPAN * (2 * progress - 1)).expand_as(y)
    return torch.stack([x, y], dim=-1)


def sample_obstacles(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Sample heights of obstacles, ``(count,)``, uniform in [-0.3, 0.3)."""
    return 0.6 * sample_uniform((count,), generator) - 0.3


def sample_chunks(
    obstacle: Tensor, share: float, generator: torch.Generator | None = None
) -> Tensor:
    """Sample demonstrated chunks, ``(B, H, 2)``.

    Args:
        obstacle: ``(B,)``.
        share: Probability of the way over the obstacle.
        generator: Source of the random draws.
    """
    over = sample_uniform((len(obstacle),), generator) < share
    chosen = ways(obstacle)[torch.arange(len(obstacle)), 1 - over.long()]
    return chosen + NOISE * sample_normal(chosen.shape, generator)


def observe(obstacle: Tensor) -> Observation:
    """Return observations of obstacles ``(B,)``: no image, their height as the state."""
    return Observation(images={}, instruction=["go"] * len(obstacle), state=obstacle[:, None])


class ChunkEvaluation(NamedTuple):
    """Classification of chunks, each field ``(B,)`` bool.

    Args:
        over: The closer way, by squared distance, is the one over the obstacle.
        consistent: Every step where the ways are apart is closer to the same way.
        off_manifold: Some coordinate deviates from the closer way by more than ``TOLERANCE``.
    """

    over: Tensor
    consistent: Tensor
    off_manifold: Tensor


def evaluate_chunks(chunks: Tensor, obstacle: Tensor) -> ChunkEvaluation:
    """Classify chunks ``(B, H, 2)`` for obstacles ``(B,)``."""
    both = ways(obstacle)
    error = chunks[:, None] - both
    upper = error.square().sum(-1).argmin(dim=1) == 0
    apart = (both[:, 0] - both[:, 1]).norm(dim=-1) > 2 * TOLERANCE
    consistent = (upper | ~apart).all(dim=-1) | (~upper | ~apart).all(dim=-1)
    closer = error.square().sum(dim=(-1, -2)).argmin(dim=1)
    deviation = error[torch.arange(len(chunks)), closer].abs().amax(dim=(-1, -2))
    return ChunkEvaluation(closer == 0, consistent, deviation > TOLERANCE)


class ReachDataModule(LightningDataModule):
    """Demonstrations of the reach; each batch is a function of its index.

    Args:
        share: Probability of the way over the obstacle.
        num_batches: Batches of an epoch.
        batch_size: Chunks of a batch.
    """

    def __init__(self, share: float, num_batches: int, batch_size: int = 64) -> None:
        super().__init__()
        self.spec = SPEC
        self.dataset = ReachDataset(share, num_batches, batch_size)

    def action_chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield actions, state and validity of some demonstrations, for statistics."""
        for index in range(min(20, len(self.dataset))):
            batch = self.dataset[index]
            yield batch["actions"], batch["state"], batch["valid"]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return batches of demonstrations."""
        return DataLoader(self.dataset, batch_size=None)


class ReachDataset(Dataset[Batch]):
    """Batches of demonstrations; arguments as those of :class:`ReachDataModule`."""

    def __init__(self, share: float, num_batches: int, batch_size: int) -> None:
        self.share, self.num_batches, self.batch_size = share, num_batches, batch_size

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(index)
        obstacle = sample_obstacles(self.batch_size, generator)
        actions = sample_chunks(obstacle, self.share, generator)
        observation = observe(obstacle)
        return Batch(
            images=observation["images"],
            instruction=observation["instruction"],
            state=observation["state"],
            actions=actions,
            valid=torch.ones(actions.shape[:2], dtype=torch.bool),
        )
