"""Actions relative to the robot's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from e0_lightning.types import PolicySpec


class RelativeActions:
    """Subtracts the state at the start of the chunk from some action dimensions.

    Dimensions that are not listed, such as a gripper's, stay absolute.

    Differences of angles are wrapped to (-π, π], and so are angles converted back. Each angle is
    wrapped on its own, which is exact both ways; but near the singularity of Euler angles, where
    the middle one is close to ±90°, a small rotation still gives large differences.

    State dimensions are given by state part; :meth:`resolve_state` finds them in the state vector.

    Args:
        actions: Action dimensions to make relative.
        state: State part to its dimensions, in order one for each of ``actions``, of the same
            quantity and unit, such as ``{qpos: [0, 1, 2]}``.
        angles: The action dimensions that are angles in radians.

    Raises:
        ValueError: If the numbers of dimensions differ, an action dimension is repeated, an index
            is negative, or an angle is not among the action dimensions.
    """

    def __init__(
        self, actions: list[int], state: Mapping[str, list[int]], angles: Sequence[int] = ()
    ) -> None:
        dims = [dim for part in state.values() for dim in part]
        if len(actions) != len(dims):
            raise ValueError(
                f"relative: expected one state dimension per action dimension, got {len(dims)} "
                f"({dict(state)}) for {len(actions)} ({actions})."
            )
        if len(set(actions)) != len(actions):
            raise ValueError(f"relative.actions: expected each dimension once, got {actions}.")
        if min([*actions, *dims], default=0) < 0:
            raise ValueError(
                f"relative: expected dimensions counted from 0, got {actions} and {dict(state)}."
            )
        if not set(angles) <= set(actions):
            raise ValueError(
                f"relative.angles: expected some of the action dimensions {actions}, got "
                f"{list(angles)}."
            )
        self.actions = list(actions)
        self.state = {part: list(dims) for part, dims in state.items()}
        self.angles = list(angles)
        self._state_indices: list[int] | None = None

    def resolve_state(self, spec: PolicySpec) -> Self:
        """Look up the state dimensions in the state vector, and return this object.

        Raises:
            ValueError: If the spec has no such state part, or a part no such dimension.
        """
        self._state_indices = spec.state_indices(self.state, "relative.state")
        return self

    def __call__(self, actions: Tensor, state: Tensor) -> Tensor:
        """Subtract the state.

        Args:
            actions: ``(B, H, D)``, robot units.
            state: ``(B, Q)``, robot units.

        Returns:
            ``(B, H, D)``, a new tensor.

        Raises:
            ValueError: If the state is not resolved yet, or an index lies outside D or Q.
        """
        return self._shift(actions, state, sign=-1)

    def undo(self, relative: Tensor, state: Tensor) -> Tensor:
        """Add the state back, ``(B, H, D)``.

        Raises:
            ValueError: If the state is not resolved yet, or an index lies outside D or Q.
        """
        return self._shift(relative, state, sign=1)

    def _shift(self, actions: Tensor, state: Tensor, sign: int) -> Tensor:
        if self._state_indices is None:
            raise ValueError(
                "relative: the state parts are not resolved yet. Call resolve_state(spec) first."
            )
        for name, indices, size in (
            ("action", self.actions, actions.shape[-1]),
            ("state", self._state_indices, state.shape[-1]),
        ):
            if max(indices, default=-1) >= size:
                raise ValueError(
                    f"relative: expected {name} dimensions from 0 to {size - 1}, got "
                    f"{max(indices)}."
                )
        shifted = actions.clone()
        shifted[..., self.actions] += sign * state[:, None, self._state_indices]
        shifted[..., self.angles] = wrap(shifted[..., self.angles])
        return shifted


def wrap(angles: Tensor) -> Tensor:
    """Wrap angles in radians to (-π, π]; those in this range are returned unchanged."""
    return angles - 2 * torch.pi * torch.ceil(angles / (2 * torch.pi) - 0.5)
