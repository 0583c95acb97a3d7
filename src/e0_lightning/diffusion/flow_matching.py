"""Flow matching: straight paths from noise to actions, and their velocity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from e0_lightning.diffusion.losses import masked_mean
from e0_lightning.diffusion.schedules import BetaTau, TauDistribution
from e0_lightning.random import Generator, sample_normal

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``(x_tau (B, H, D), tau (B,)) → velocity (B, H, D)``."""


class PathPoint(NamedTuple):
    """A point of a path and the velocity there.

    Args:
        x_tau: ``(B, H, D)`` float32.
        velocity: ``(B, H, D)`` float32, the derivative of ``x_tau`` with respect to τ.
    """

    x_tau: Tensor
    velocity: Tensor


class RectifiedFlow:
    """``x_τ = τ A + (1 − τ) ε`` with velocity ``A − ε`` (π0, arXiv 2410.24164, section IV).

    τ = 1 is clean, τ = 0 pure noise. The minimizer of the squared error to ``A − ε`` is the
    velocity of a flow from noise to actions.

    Args:
        tau_distribution: Distribution of τ in training; None is π0's ``BetaTau()``.
    """

    def __init__(self, tau_distribution: TauDistribution | None = None) -> None:
        self.tau_distribution = tau_distribution or BetaTau()

    def corrupt(
        self,
        actions: Tensor,
        tau: Tensor,
        generator: Generator = None,
        valid: Tensor | None = None,
    ) -> PathPoint:
        """Sample a point of the path to given actions.

        Args:
            actions: ``(B, H, D)``, normalized.
            tau: ``(B,)`` in [0, 1].
            generator: Random generator, or one per row.
            valid: ``(B, H, D)`` bool; other values are noise on a path to 0, which carries no
                information. None is all.
        """
        noise = sample_normal(actions.shape, generator, actions.device)
        target = actions.float() if valid is None else torch.where(valid, actions.float(), 0.0)
        return PathPoint(torch.lerp(noise, target, tau[:, None, None]), target - noise)

    def loss(self, predicted: Tensor, velocity: Tensor, valid: Tensor) -> Tensor:
        """Mean squared error over valid values, a scalar; arguments ``(B, H, D)``."""
        return masked_mean((predicted.float() - velocity) ** 2, valid)

    def integrate(
        self,
        velocity: Velocity,
        shape: Sequence[int],
        taus: Tensor,
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Iterator[Tensor]:
        """Integrate from noise to actions by Euler steps, ``x ← x + (τ' − τ) v(x, τ)``.

        Args:
            velocity: The velocity field.
            shape: ``(B, H, D)``.
            taus: Noise levels ``(N,)`` of the evaluations, increasing from 0; the last step ends at
                τ = 1.
            generator: Random generator, or one per row.
            device: Device to compute on; None is the generator's device, or the CPU.

        Yields:
            ``N + 1`` tensors ``(B, H, D)``: the state at each level, and the actions. The velocity
            is evaluated when the next state is asked for.
        """
        state = sample_normal(shape, generator, device)
        yield state
        for tau, next_tau in pairwise([*taus.tolist(), 1.0]):
            level = torch.full((shape[0],), tau, device=state.device)
            state = state + (next_tau - tau) * velocity(state, level).float()
            yield state
