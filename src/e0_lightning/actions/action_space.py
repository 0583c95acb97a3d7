"""Robot units to the normalized chunk a policy works in, and back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from e0_lightning.actions.normalizers import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.quantiles import RunningQuantiles
from e0_lightning.actions.relative import RelativeActions


class ActionSpace(nn.Module):
    """Chunks of actions made relative, normalized, and padded to the width of the model.

    Args:
        horizon: Steps H of a chunk.
        normalizer: The map of each dimension, over the D dimensions of the robot.
        relative: Dimensions to measure from the state; None keeps all as they are.
        model_dim: Width of the normalized chunk, D or more; None is D. The dimensions past D are
            zeros, marked in ``padding``, and count for nothing in the loss.

    Raises:
        ValueError: If the horizon is below 1, or the model is narrower than the robot.
    """

    padding: Tensor

    def __init__(
        self,
        horizon: int,
        normalizer: QuantileNormalizer | MeanStdNormalizer,
        relative: RelativeActions | None = None,
        model_dim: int | None = None,
    ) -> None:
        super().__init__()
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}; a chunk needs 1 step or more.")
        if model_dim is not None and model_dim < normalizer.dim:
            raise ValueError(
                f"model_dim is {model_dim}, but the robot has {normalizer.dim} action dimensions; "
                "give as many or more, or leave it out."
            )
        self.horizon = horizon
        self.normalizer = normalizer
        self.relative = relative
        self.model_dim = model_dim
        marks = torch.arange(self.width) >= self.dim
        self.register_buffer("padding", marks, persistent=False)

    @property
    def dim(self) -> int:
        """Action dimensions D of the robot."""
        return self.normalizer.dim

    @property
    def width(self) -> int:
        """Action dimensions of the model; ``padding``, ``(width,)`` bool, marks those past D."""
        return self.dim if self.model_dim is None else self.model_dim

    def fit(self, windows: Iterable[tuple[Tensor, Tensor, Tensor]]) -> ActionSpace:
        """Fit the normalizer to demonstrations, in one pass.

        Args:
            windows: Batches of actions ``(N, H, D)`` and state ``(N, Q)`` in robot units, and of
                valid steps ``(N, H)`` bool; the others count for nothing.

        Returns:
            This object.

        Raises:
            ValueError: If there is no valid step, one is not finite, or a shape does not fit.
        """
        statistics = RunningQuantiles(self.dim)
        for actions, state, valid in windows:
            self._check(actions, self.dim)
            statistics.update(self._relative(actions, state)[valid])
        self.normalizer.fit_statistics(statistics)
        return self

    def normalize(self, actions: Tensor, state: Tensor) -> Tensor:
        """Turn a chunk in robot units into one for the model.

        Args:
            actions: ``(B, H, D)``, robot units.
            state: ``(B, Q)``, robot units.

        Returns:
            ``(B, H, width)``; within [-1, 1] but for outliers.

        Raises:
            ValueError: If a shape does not fit, or nothing was fitted.
        """
        self._check(actions, self.dim)
        normalized: Tensor = self.normalizer(self._relative(actions, state))
        return nn.functional.pad(normalized, (0, self.width - self.dim))

    def undo(self, normalized: Tensor, state: Tensor) -> Tensor:
        """Return a chunk of the model, ``(B, H, width)``, to robot units, ``(B, H, D)``.

        Raises:
            ValueError: If a shape does not fit, or nothing was fitted.
        """
        self._check(normalized, self.width)
        actions = self.normalizer.undo(normalized[..., : self.dim])
        return actions if self.relative is None else self.relative.undo(actions, state)

    def loss_mask(self, valid: Tensor) -> Tensor:
        """Mark the values that count, ``(B, H, width)``, given the valid steps ``(B, H)``."""
        return valid.unsqueeze(-1) & ~self.padding

    def _relative(self, actions: Tensor, state: Tensor) -> Tensor:
        return actions if self.relative is None else self.relative(actions, state)

    def _check(self, actions: Tensor, dim: int) -> None:
        if actions.ndim != 3 or actions.shape[1:] != (self.horizon, dim):
            raise ValueError(
                f"actions of shape {tuple(actions.shape)}; expected (B, {self.horizon}, {dim}): "
                f"a horizon of {self.horizon} steps and {dim} dimensions."
            )
