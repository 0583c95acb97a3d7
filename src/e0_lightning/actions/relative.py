"""Actions as offsets from the state the robot is in."""

from __future__ import annotations

from torch import Tensor


class RelativeActions:
    """Measure some action dimensions from the state at the start of the chunk.

    The dimensions not named, such as a gripper's, stay absolute.

    Args:
        actions: Action dimensions to make relative.
        state: For each of them, the state dimension of the same quantity and unit.

    Raises:
        ValueError: If the lists differ in length, an action dimension comes twice, or an index is
            negative.
    """

    def __init__(self, actions: list[int], state: list[int]) -> None:
        if len(actions) != len(state):
            raise ValueError(
                f"{len(actions)} action dimensions {actions} but {len(state)} state dimensions "
                f"{state}; name one state dimension for each action dimension."
            )
        if len(set(actions)) != len(actions):
            raise ValueError(f"action dimensions {actions} name one twice; name each once.")
        if min([*actions, *state], default=0) < 0:
            raise ValueError(f"dimensions {actions} and {state}; count from 0, not from the end.")
        self.actions = list(actions)
        self.state = list(state)

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
        return shifted
