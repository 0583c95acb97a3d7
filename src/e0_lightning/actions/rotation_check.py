"""Detection of angles and rotations that are treated as plain numbers."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from e0_lightning.actions.relative import RelativeActions

_LEAST_JUMP = 1.1 * math.pi
"""Radians. An angle that wraps jumps by 2π, and the largest component of a rotation vector that
passes half a turn by 2π/√3 or more, less the motion of a step."""

_HALF_TURN = math.pi + 0.01
"""Largest angle, radians, of values that wrap at ±π."""

_REMEDY = (
    "List the rotation of a pose in actions.relative.rotations, and the angle of a joint without "
    "limits in actions.relative.angles."
)


class RotationCheck:
    """Finds action dimensions that are angles or quaternions, by their values.

    An angle that wraps, and a component of an axis-angle rotation, stays within ±π and jumps by a
    turn from one step to the next: its difference to the state is wrong by 2π, and the mean of two
    neighbouring values points the other way. Four dimensions in a row that always have the length 1
    are a quaternion, whose sign is arbitrary.

    Args:
        dim: Action dimensions D.
        relative: Relative actions; its ``angles`` and ``rotations`` are treated right.
    """

    def __init__(self, dim: int, relative: RelativeActions | None) -> None:
        self._is_subtracted = torch.zeros(dim, dtype=torch.bool)
        self._is_known = torch.zeros(dim, dtype=torch.bool)
        self._jump = torch.zeros(dim)
        self._extent = torch.zeros(dim)
        self._off_length = torch.zeros(max(dim - 3, 0))
        if relative is not None:
            rotated = [dim for rotation in relative.rotations for dim in rotation.actions]
            self._is_subtracted[relative.actions] = True
            self._is_known[[*relative.angles, *rotated]] = True

    def update(self, actions: Tensor, relative: Tensor, valid: Tensor) -> None:
        """Measure jumps and lengths in chunks.

        Args:
            actions: ``(N, H, D)``, robot units.
            relative: The same chunks relative to the state.
            valid: ``(N, H)`` bool; other steps are ignored.
        """
        steps = (actions[:, 1:2] - actions[:, :1])[valid[:, 1:2]]
        from_state = relative[:, 0][valid[:, 0]] * self._is_subtracted
        self._jump = _largest(self._jump, steps, from_state)
        self._extent = _largest(self._extent, actions[valid])
        if len(self._off_length):
            lengths = actions[valid].unfold(-1, 4, 1).norm(dim=-1)
            self._off_length = _largest(self._off_length, lengths - 1)

    def finish(self) -> None:
        """Report what was found; a jump of an absolute dimension is a warning.

        Raises:
            ValueError: If the state is subtracted from an angle that wraps, or from a quaternion.
        """
        wraps = (self._jump > _LEAST_JUMP) & (self._extent < _HALF_TURN) & ~self._is_known
        for dim in wraps.nonzero().flatten().tolist():
            message = (
                f"actions: dimension {dim} jumps by {self._jump[dim]:.2f} rad between two steps or "
                "from the state, within ±π: it is an angle that wraps, or part of a rotation. "
                f"{_REMEDY}"
            )
            if self._is_subtracted[dim]:
                raise ValueError(message)
            warnings.warn(f"{message} Averages of it are wrong at ±π.", stacklevel=3)
        for first in (self._off_length < 1e-3).nonzero().flatten().tolist():
            if self._is_subtracted[first : first + 4].all():
                raise ValueError(
                    f"actions: dimensions {first} to {first + 3} always have the length 1: they "
                    "are a quaternion, whose sign is arbitrary, and the state is subtracted from "
                    f"them. {_REMEDY}"
                )


def _largest(so_far: Tensor, *values: Tensor) -> Tensor:
    """Largest magnitude by dimension ``(D,)``, including rows of ``(N, D)``."""
    return torch.cat([so_far[None], *values]).abs().amax(dim=0)
