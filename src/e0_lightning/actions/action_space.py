"""Action chunks: from robot units to normalized, padded chunks of the model, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn

from e0_lightning.actions.normalizers import Normalizer
from e0_lightning.actions.quantiles import RunningQuantiles
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.actions.rotation_check import RotationCheck
from e0_lightning.types import PolicySpec


class ActionSpace(nn.Module):
    """Action chunks made relative, normalized, and padded to the width of the model.

    Args:
        horizon: Steps H of a chunk.
        normalizer: Normalizer of the D action dimensions of the robot.
        relative: Dimensions relative to the state; None keeps all absolute.
        model_dim: Width of the normalized chunk, at least D; None is D. Dimensions past D are
            zero, marked in ``padding``, and excluded from the loss.
        predict_padding: Treat the zeros past D as actions, which have noise and a loss, as π0 is
            trained; ``padding`` marks none of them.

    Raises:
        ValueError: If horizon or normalizer is None, the horizon is below 1, or the model is
            narrower than the robot's actions.
    """

    padding: Tensor

    def __init__(
        self,
        horizon: int | None = None,
        normalizer: Normalizer | None = None,
        relative: RelativeActions | None = None,
        model_dim: int | None = None,
        predict_padding: bool = False,
    ) -> None:
        super().__init__()
        if horizon is None or horizon < 1:
            raise ValueError(
                f"actions.horizon: expected 1 step or more, got {horizon}. Set it to the horizon "
                "of the data."
            )
        if normalizer is None:
            raise ValueError(
                "actions.normalizer: expected a normalizer such as QuantileNormalizer(dim), got "
                "None."
            )
        if model_dim is not None and model_dim < normalizer.dim:
            raise ValueError(
                f"actions.model_dim: expected at least the {normalizer.dim} action dimensions of "
                f"the robot, got {model_dim}. Raise it, or leave it out."
            )
        self.horizon = horizon
        self.normalizer = normalizer
        self.relative = relative
        self.model_dim = model_dim
        is_padding = (torch.arange(self.width) >= self.dim) & (not predict_padding)
        self.register_buffer("padding", is_padding, persistent=False)

    @property
    def dim(self) -> int:
        """Action dimensions D of the robot."""
        return self.normalizer.dim

    @property
    def width(self) -> int:
        """Action dimensions of the model; ``padding``, ``(width,)`` bool, marks hidden ones."""
        return self.dim if self.model_dim is None else self.model_dim

    def resolve_state(self, spec: PolicySpec) -> Self:
        """Look up the state parts of relative actions; see ``RelativeActions.resolve_state``."""
        if self.relative is not None:
            self.relative.resolve_state(spec)
        return self

    def fit(self, chunks: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Self:
        """Fit the normalizer to demonstrations, in one pass.

        Args:
            chunks: Batches of actions ``(N, H, D)`` and state ``(N, Q)`` in robot units, and of
                valid steps ``(N, H)`` bool; other steps are ignored.

        Returns:
            This object.

        Raises:
            ValueError: If there is no valid step, one is not finite, a shape does not fit, or the
                state is subtracted from an angle that wraps or from a quaternion.
        """
        statistics = RunningQuantiles(self.dim)
        rotations = RotationCheck(self.dim, self.relative)
        for actions, state, valid in chunks:
            self._check(actions, self.dim)
            relative = self._to_relative(actions, state)
            statistics.update(relative[valid])
            rotations.update(actions, relative, valid)
        rotations.finish()
        self.normalizer.fit_statistics(statistics)
        return self

    def normalize(self, actions: Tensor, state: Tensor) -> Tensor:
        """Convert a chunk from robot units to the model's.

        Args:
            actions: ``(B, H, D)``, robot units.
            state: ``(B, Q)``, robot units.

        Returns:
            ``(B, H, width)``; within [-1, 1] except for outliers.

        Raises:
            ValueError: If a shape does not fit, or the normalizer is not fitted.
        """
        self._check(actions, self.dim)
        normalized: Tensor = self.normalizer(self._to_relative(actions, state))
        return nn.functional.pad(normalized, (0, self.width - self.dim))

    def undo(self, normalized: Tensor, state: Tensor) -> Tensor:
        """Convert a chunk of the model, ``(B, H, width)``, to robot units, ``(B, H, D)``.

        Raises:
            ValueError: If a shape does not fit, or the normalizer is not fitted.
        """
        self._check(normalized, self.width)
        actions = self.normalizer.undo(normalized[..., : self.dim])
        return actions if self.relative is None else self.relative.undo(actions, state)

    def difference(self, first: Tensor, second: Tensor) -> Tensor:
        """Difference of actions in robot units, ``(…, D)``; see ``RelativeActions.difference``."""
        return first - second if self.relative is None else self.relative.difference(first, second)

    def loss_mask(self, valid: Tensor) -> Tensor:
        """Values included in the loss, ``(B, H, width)`` bool, given valid steps ``(B, H)``."""
        return valid.unsqueeze(-1) & ~self.padding

    def normalized_entropy(self, logits: Tensor) -> Tensor:
        """Uncertainty of each step: entropy of its tokens over ``ln K``, ``(B, H)`` in [0, 1].

        Args:
            logits: ``(B, L, K)`` of the posterior over tokens; padding is left out of the mean.
        """
        entropy = torch.special.entr(logits.float().softmax(dim=-1)).sum(dim=-1)
        by_step = entropy.unflatten(1, (self.horizon, self.width))[..., : self.dim]
        normalized: Tensor = by_step.mean(dim=-1) / math.log(logits.shape[-1])
        return normalized

    def _to_relative(self, actions: Tensor, state: Tensor) -> Tensor:
        return actions if self.relative is None else self.relative(actions, state)

    def _check(self, actions: Tensor, dim: int) -> None:
        if actions.ndim != 3 or actions.shape[1:] != (self.horizon, dim):
            raise ValueError(
                f"actions: expected shape (B, {self.horizon}, {dim}), a horizon of {self.horizon} "
                f"steps and {dim} dimensions, got {tuple(actions.shape)}."
            )
