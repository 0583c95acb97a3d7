"""A reach whose truth is known: two ways round an obstacle, one of them likelier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from e0_lightning.types import Batch, Observation, PolicySpec

HORIZON, SPAN, BEND, RADIUS = 12, 0.9, 0.5, 0.3
"""Steps of a chunk; how far left it starts and right it ends; how far above or below the
obstacle's centre it passes; the obstacle's radius."""

NOISE = 0.03
"""Standard deviation of a demonstrator's actions about a way, in each of 24 numbers."""

TOLERANCE = 4.1 * NOISE
"""Distance from its way, in one number, that one true chunk in 1 000 has somewhere."""

SPEC = PolicySpec({}, {"obstacle": 1}, action_dim=2, control_mode="reach", horizon=HORIZON)


def ways(obstacle: Tensor) -> Tensor:
    """The ways over and under obstacles, ``(B, 2, H, 2)`` as (x, y), at centres ``(B,)`` in y."""
    progress = torch.linspace(0, 1, HORIZON)
    rise = torch.sin(math.pi * progress)
    side = torch.tensor([BEND, -BEND])
    y = (obstacle[:, None, None] + side[:, None]) * rise
    x = (SPAN * (2 * progress - 1)).expand_as(y)
    return torch.stack([x, y], dim=-1)


def draw(obstacle: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw chunks ``(B, H, 2)``: the way over with probability ``share``, and noise about it."""
    over = torch.rand(len(obstacle), generator=generator) < share
    chosen = ways(obstacle)[torch.arange(len(obstacle)), 1 - over.long()]
    return chosen + NOISE * torch.randn(chosen.shape, generator=generator)


def observe(obstacle: Tensor) -> Observation:
    """What a policy is shown of obstacles ``(B,)``: no image, their height as the state."""
    return Observation(images={}, instruction=["go"] * len(obstacle), state=obstacle[:, None])


class Judgement(NamedTuple):
    """What chunks for given obstacles amount to, each ``(B,)`` bool.

    Args:
        over: The likelier way, were both as common, is the one over the obstacle.
        whole: Every step, where the ways are apart, is nearer to the same way.
        off: Some step is further from the likelier way than one true chunk in 1 000 has any.
    """

    over: Tensor
    whole: Tensor
    off: Tensor


def judge(chunks: Tensor, obstacle: Tensor) -> Judgement:
    """Compare chunks ``(B, H, 2)`` with the ways past obstacles ``(B,)``."""
    both = ways(obstacle)
    error = chunks[:, None] - both
    upper = error.square().sum(-1).argmin(dim=1) == 0
    apart = (both[:, 0] - both[:, 1]).norm(dim=-1) > 2 * TOLERANCE
    whole = (upper | ~apart).all(dim=-1) | (~upper | ~apart).all(dim=-1)
    # At equal noise about both ways, the likelier is the one with the smaller sum of squares.
    likelier = error.square().sum(dim=(-1, -2)).argmin(dim=1)
    furthest = error[torch.arange(len(chunks)), likelier].abs().amax(dim=(-1, -2))
    return Judgement(likelier == 0, whole, furthest > TOLERANCE)


class Reach(LightningDataModule):
    """Endless demonstrations of the reach, each batch a function of its place.

    Args:
        share: Probability of the way over the obstacle.
        batches: Batches of an epoch.
        batch_size: Chunks of a batch.
    """

    def __init__(self, share: float, batches: int, batch_size: int = 64) -> None:
        super().__init__()
        self.spec = SPEC
        self.demos = Demos(share, batches, batch_size)

    def action_windows(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Actions, state and validity of some demonstrations, for statistics."""
        for place in range(min(20, len(self.demos))):
            batch = self.demos[place]
            yield batch["actions"], batch["state"], batch["valid"]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of demonstrations."""
        return DataLoader(self.demos, batch_size=None)


class Demos(Dataset[Batch]):
    """Batches of demonstrations; see :class:`Reach`."""

    def __init__(self, share: float, batches: int, batch_size: int) -> None:
        self.share, self.batches, self.batch_size = share, batches, batch_size

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, place: int) -> Batch:
        generator = torch.Generator().manual_seed(place)
        obstacle = places(self.batch_size, generator)
        actions = draw(obstacle, self.share, generator)
        valid = torch.ones(actions.shape[:2], dtype=torch.bool)
        return Batch(**observe(obstacle), actions=actions, valid=valid)


def places(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Heights ``(count,)`` of obstacles, uniform from -0.3 to 0.3."""
    return 0.6 * torch.rand(count, generator=generator) - 0.3
