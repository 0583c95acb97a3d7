"""Actions as offsets from the state the robot is in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RelativeActions:
    """Measure some action dimensions from the state at the start of the chunk.

    The dimensions not named, such as a gripper's, stay absolute.

    An angle and the same angle a turn further are one: the difference of two is the shorter way
    around, in (-π, π], and so is an angle that comes back. Each angle is taken by itself, which is
    exact both ways; but Euler angles that are about to change all three at once, where the middle
    one nears ±90°, still give large differences for a small rotation.

    Args:
        actions: Action dimensions to make relative.
        state: For each of them, the state dimension of the same quantity and unit.
        angles: Those of the action dimensions that are angles in radians that may wrap around.

    Raises:
        ValueError: If the lists differ in length, an action dimension comes twice, an index is
            negative, or an angle is not among the action dimensions.
    """

    def __init__(self, actions: list[int], state: list[int], angles: Sequence[int] = ()) -> None:
        if len(actions) != len(state):
            raise ValueError(
                f"{len(actions)} action dimensions {actions} but {len(state)} state dimensions "
                f"{state}; name one state dimension for each action dimension."
            )
        if len(set(actions)) != len(actions):
            raise ValueError(f"action dimensions {actions} name one twice; name each once.")
        if min([*actions, *state], default=0) < 0:
            raise ValueError(f"dimensions {actions} and {state}; count from 0, not from the end.")
        if not set(angles) <= set(actions):
            raise ValueError(
                f"angles {list(angles)} are not all among the relative action dimensions {actions};"
                " name those of them that wrap around."
            )
        self.actions = list(actions)
        self.state = list(state)
        self.angles = list(angles)

    def __call__(self, actions: Tensor, state: Tensor) -> Tensor:
        """Subtract the state.

        Args:
            actions: ``(B, H, D)``, robot units.
            state: ``(B, Q)``, robot units.

        Returns:
            ``(B, H, D)``, a new tensor.

        Raises:
            ValueError: If an index lies outside D or Q.
        """
        return self._shift(actions, state, sign=-1)

    def undo(self, relative: Tensor, state: Tensor) -> Tensor:
        """Add the state again, ``(B, H, D)``.

        Raises:
            ValueError: If an index lies outside D or Q.
        """
        return self._shift(relative, state, sign=1)

    def _shift(self, actions: Tensor, state: Tensor, sign: int) -> Tensor:
        for name, indices, size in (
            ("action", self.actions, actions.shape[-1]),
            ("state", self.state, state.shape[-1]),
        ):
            if max(indices, default=-1) >= size:
                raise ValueError(
                    f"relative actions use {name} dimension {max(indices)}, but there are {size}; "
                    f"count from 0 to {size - 1}."
                )
        shifted = actions.clone()
        shifted[..., self.actions] += sign * state[:, None, self.state]
        shifted[..., self.angles] = wrap(shifted[..., self.angles])
        return shifted


def wrap(angles: Tensor) -> Tensor:
    """The same angles, radians, within (-π, π]; those that lie there stay as they are."""
    return angles - 2 * torch.pi * torch.ceil(angles / (2 * torch.pi) - 0.5)
