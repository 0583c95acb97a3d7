"""Actions relative to the robot's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from e0_lightning.actions.rotations import (
    REPRESENTATIONS,
    axis_angle_to_quaternion,
    find_representation,
    invert,
    multiply,
    quaternion_to_axis_angle,
    wrap,
)
from e0_lightning.types import PolicySpec


@dataclass(frozen=True)
class RelativeRotation:
    """A rotation among the action dimensions and the rotation in the state that it is relative to.

    ``R = R_action R_state⁻¹``: the rotation from the state to the action, about the axes of the
    frame in which both are given, as differences of positions are along them. It is a rotation
    vector (axis times angle in radians), which is smooth below half a turn. The first three action
    dimensions hold it; those that the representation has beyond three are 0.

    Args:
        actions: Action dimensions of the rotation.
        state: State part to its dimensions, in order those of the state's rotation.
        representation: ``axis_angle``, ``quaternion_wxyz``, ``quaternion_xyzw``,
            ``rotation_6d_rows``, ``rotation_6d_columns`` (the first two of the matrix), or
            ``euler_`` and the axes in the order of rotation: ``euler_xyz`` about fixed axes,
            ``euler_XYZ`` about moving ones. Angles are radians.
        state_representation: The same of the state; None: that of the actions.

    Raises:
        ValueError: If a representation is unknown, or has another number of dimensions.
    """

    actions: list[int]
    state: Mapping[str, list[int]]
    representation: str
    state_representation: str | None = None

    def __post_init__(self) -> None:
        dims = [dim for part in self.state.values() for dim in part]
        for option, name, given in (
            ("actions", self.representation, self.actions),
            ("state", self.representation_of_state, dims),
        ):
            size = find_representation(name, "relative.rotations").size
            if len(given) != size:
                raise ValueError(
                    f"relative.rotations.{option}: expected {size} dimensions of {name}, got "
                    f"{len(given)} ({given})."
                )

    @property
    def representation_of_state(self) -> str:
        """Name of the state's representation."""
        return self.state_representation or self.representation

    def relative(self, actions: Tensor, state: Tensor) -> Tensor:
        """Rotations from the state to the actions.

        Args:
            actions: ``(B, H, n)``.
            state: ``(B, m)``.

        Returns:
            ``(B, H, n)``, a rotation vector followed by zeros.
        """
        target = REPRESENTATIONS[self.representation].to_quaternion(actions)
        return self._rotation_vector(multiply(target, invert(self._state(state))))

    def undo(self, relative: Tensor, state: Tensor) -> Tensor:
        """Rotate the state, ``(B, m)``, by relative rotations, ``(B, H, n)``."""
        rotation = axis_angle_to_quaternion(relative[..., :3])
        target = multiply(rotation, self._state(state))
        return REPRESENTATIONS[self.representation].from_quaternion(target)

    def difference(self, first: Tensor, second: Tensor) -> Tensor:
        """Rotations from ``second`` to ``first``, ``(…, n)`` each, as `relative` returns them."""
        decode = REPRESENTATIONS[self.representation].to_quaternion
        return self._rotation_vector(multiply(decode(first), invert(decode(second))))

    def _state(self, state: Tensor) -> Tensor:
        decoded = REPRESENTATIONS[self.representation_of_state].to_quaternion(state)
        return decoded.unsqueeze(1)

    def _rotation_vector(self, quaternion: Tensor) -> Tensor:
        missing = len(self.actions) - 3
        return torch.nn.functional.pad(quaternion_to_axis_angle(quaternion), (0, missing))


class RelativeActions:
    """Actions relative to the state at the start of the chunk; others stay absolute.

    Positions and joint angles are relative by subtraction, rotations by composition. Differences of
    ``angles`` are wrapped to (-π, π], and so are angles converted back.

    State dimensions are given by state part; :meth:`resolve_state` finds them in the state vector.

    Args:
        actions: Action dimensions that the state is subtracted from.
        state: State part to its dimensions, in order one for each of ``actions``, of the same
            quantity and unit, such as ``{qpos: [0, 1, 2]}``.
        angles: Those of ``actions`` that are angles in radians of joints without limits. The angles
            of a pose are not independent of each other: they belong to ``rotations``.
        rotations: Rotations in any representation, each relative to a rotation in the state.

    Raises:
        ValueError: If the numbers of dimensions differ, an action dimension is repeated, an index
            is negative, or an angle is not among the action dimensions.
    """

    def __init__(
        self,
        actions: list[int],
        state: Mapping[str, list[int]],
        angles: Sequence[int] = (),
        rotations: Sequence[RelativeRotation] = (),
    ) -> None:
        dims = [dim for part in state.values() for dim in part]
        if len(actions) != len(dims):
            raise ValueError(
                f"relative: expected one state dimension per action dimension, got {len(dims)} "
                f"({dict(state)}) for {len(actions)} ({actions})."
            )
        every = [*actions, *(dim for rotation in rotations for dim in rotation.actions)]
        if len(set(every)) != len(every):
            raise ValueError(
                "relative: expected each action dimension once in actions and rotations, got "
                f"{every}."
            )
        if min([*every, *dims], default=0) < 0:
            raise ValueError(
                f"relative: expected dimensions counted from 0, got {every} and {dict(state)}."
            )
        if not set(angles) <= set(actions):
            raise ValueError(
                f"relative.angles: expected some of the action dimensions {actions}, got "
                f"{list(angles)}."
            )
        self.actions = list(actions)
        self.state = {part: list(dims) for part, dims in state.items()}
        self.angles = list(angles)
        self.rotations = list(rotations)
        self._state_indices: list[int] | None = None
        self._rotation_indices: list[list[int]] = []

    def resolve_state(self, spec: PolicySpec) -> Self:
        """Look up the state dimensions in the state vector, and return this object.

        Raises:
            ValueError: If the spec has no such state part, or a part no such dimension.
        """
        self._state_indices = spec.state_indices(self.state, "relative.state")
        self._rotation_indices = [
            spec.state_indices(rotation.state, "relative.rotations.state")
            for rotation in self.rotations
        ]
        return self

    def __call__(self, actions: Tensor, state: Tensor) -> Tensor:
        """Make actions relative.

        Args:
            actions: ``(B, H, D)``, robot units.
            state: ``(B, Q)``, robot units.

        Returns:
            ``(B, H, D)``, a new tensor.

        Raises:
            ValueError: If the state is not resolved yet, or an index lies outside D or Q.
        """
        relative = self._shift(actions, state, sign=-1)
        for rotation, indices in zip(self.rotations, self._rotation_indices, strict=True):
            dims = rotation.actions
            relative[..., dims] = rotation.relative(actions[..., dims], state[:, indices])
        return relative

    def undo(self, relative: Tensor, state: Tensor) -> Tensor:
        """Convert back to absolute actions, ``(B, H, D)``.

        Raises:
            ValueError: If the state is not resolved yet, or an index lies outside D or Q.
        """
        actions = self._shift(relative, state, sign=1)
        for rotation, indices in zip(self.rotations, self._rotation_indices, strict=True):
            dims = rotation.actions
            actions[..., dims] = rotation.undo(relative[..., dims], state[:, indices])
        return actions

    def difference(self, first: Tensor, second: Tensor) -> Tensor:
        """Difference of absolute actions, ``(…, D)``.

        That of angles is wrapped; that of rotations is the rotation vector from ``second`` to
        ``first``, followed by zeros.
        """
        difference = first - second
        difference[..., self.angles] = wrap(difference[..., self.angles])
        for rotation in self.rotations:
            dims = rotation.actions
            difference[..., dims] = rotation.difference(first[..., dims], second[..., dims])
        return difference

    def _shift(self, actions: Tensor, state: Tensor, sign: int) -> Tensor:
        if self._state_indices is None:
            raise ValueError(
                "relative: the state parts are not resolved yet. Call resolve_state(spec) first."
            )
        rotated = [dim for rotation in self.rotations for dim in rotation.actions]
        for name, indices, size in (
            ("action", [*self.actions, *rotated], actions.shape[-1]),
            ("state", sum(self._rotation_indices, self._state_indices), state.shape[-1]),
        ):
            if max(indices, default=-1) >= size:
                raise ValueError(
                    f"relative: expected {name} dimensions from 0 to {size - 1}, got "
                    f"{max(indices)}."
                )
        shifted = actions.clone()
        shifted[..., self.actions] += sign * state[:, None, self._state_indices]
        if self.angles:  # exported graphs cannot index with an empty list
            shifted[..., self.angles] = wrap(shifted[..., self.angles])
        return shifted
