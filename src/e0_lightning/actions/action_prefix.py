"""The action prefix of real-time chunking: the first actions of a chunk, fixed before sampling."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.types import Observation


class ActionPrefix(NamedTuple):
    """First actions of chunks, which the robot executes while the rest is sampled."""

    actions: Tensor
    """``(B, H, D)``, robot units; zeros after the prefix."""
    mask: Tensor
    """``(B, H)`` bool, true for the steps of the prefix."""
    normalized: Tensor
    """``(B, H, width)``, normalized; NaN after the prefix and in padding dimensions."""

    def tokens(self, tokenizer: ActionTokenizer) -> Tensor:
        """Tokens of the prefix, ``(B, L)`` int64, −1 elsewhere; outliers saturate."""
        tokens = tokenizer.encode(self.normalized.nan_to_num())
        return tokens.masked_fill(self.normalized.isnan(), -1).flatten(1)


def read_action_prefix(observation: Observation, space: ActionSpace) -> ActionPrefix | None:
    """Read the action prefix of an observation; None if all prefixes are empty.

    Raises:
        ValueError: If there is not one prefix ``(n, D)`` of finite numbers per row, n below H.
    """
    prefixes = observation.get("action_prefix", [])
    if not any(map(len, prefixes)):
        return None
    state = observation["state"]
    actions = state.new_zeros(len(state), space.horizon, space.dim)
    mask = torch.zeros(actions.shape[:2], dtype=torch.bool, device=state.device)
    if len(prefixes) != len(state):
        raise ValueError(
            f"action_prefix: expected one prefix for each of {len(state)} observations, got "
            f"{len(prefixes)}. Pass one of shape (0, {space.dim}) where there is none."
        )
    for row, prefix in enumerate(prefixes):
        fits = prefix.ndim == 2 and len(prefix) < space.horizon and prefix.shape[1] == space.dim
        if not fits or not prefix.isfinite().all():
            raise ValueError(
                f"action_prefix: expected (n, {space.dim}) finite numbers in robot units, n from 0 "
                f"to {space.horizon - 1}, got shape {tuple(prefix.shape)}. Pass the first actions "
                f"of a chunk of {space.horizon} steps."
            )
        actions[row, : len(prefix)] = prefix
        mask[row, : len(prefix)] = True
    normalized = space.normalize(actions, state)
    return ActionPrefix(actions, mask, normalized.masked_fill(~space.loss_mask(mask), torch.nan))
