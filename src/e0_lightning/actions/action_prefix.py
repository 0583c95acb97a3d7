"""What a policy draws from and ends with: decided steps, chunks, doubts."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.types import Observation


class Draw(NamedTuple):
    """Normalised chunks and how sure they are."""

    chunk: Tensor
    """``(B, H, width)``."""
    uncertainty: Tensor | None = None
    """``(B, H)``, as a :class:`~e0_lightning.types.ActionSample` has it."""


class ActionPrefix(NamedTuple):
    """The first steps of chunks, decided before the rest is drawn."""

    actions: Tensor
    """``(B, H, D)``, robot units; zeros past what is decided."""
    steps: Tensor
    """``(B, H)`` bool: which steps are decided."""
    chunk: Tensor
    """``(B, H, width)``, the same normalized; NaN past what is decided, and in padding."""

    def tokens(self, tokenizer: ActionTokenizer) -> Tensor:
        """Decided tokens ``(B, L)`` int64, −1 elsewhere; outliers saturate."""
        tokens = tokenizer.encode(self.chunk.nan_to_num())
        return tokens.masked_fill(self.chunk.isnan(), -1).flatten(1)


def read_action_prefix(observation: Observation, space: ActionSpace) -> ActionPrefix | None:
    """Take the decided steps out of an observation; None where no chunk has any.

    Raises:
        ValueError: If they are not one ``(n, D)`` of finite numbers for each chunk, n below H.
    """
    tails = observation.get("action_prefix", [])
    if not any(map(len, tails)):
        return None
    state = observation["state"]
    actions = state.new_zeros(len(state), space.horizon, space.dim)
    steps = torch.zeros(actions.shape[:2], dtype=torch.bool, device=state.device)
    if len(tails) != len(state):
        raise ValueError(
            f"action_prefix: found tails of {len(tails)} chunks, wanted one for each of {len(state)}; "
            "an empty one, (0, D), where nothing is decided."
        )
    for index, tail in enumerate(tails):
        fits = tail.ndim == 2 and len(tail) < space.horizon and tail.shape[1] == space.dim
        if not fits or not tail.isfinite().all():
            raise ValueError(
                f"action_prefix: found shape {tuple(tail.shape)}, wanted (n, {space.dim}) finite "
                f"numbers of robot units, n from 0 to {space.horizon - 1}: the first actions of a "
                f"chunk of {space.horizon}."
            )
        actions[index, : len(tail)] = tail
        steps[index, : len(tail)] = True
    chunk = space.normalize(actions, state)
    return ActionPrefix(actions, steps, chunk.masked_fill(~space.loss_mask(steps), torch.nan))


def doubt(logits: Tensor, space: ActionSpace) -> Tensor:
    """Mean entropy of the tokens of each step as a share of ``ln K``, ``(B, H)`` in [0, 1].

    Args:
        logits: ``(B, L, K)`` of the posterior that the tokens were chosen from.
        space: Its horizon, width and padding, which counts for nothing.
    """
    entropy = torch.special.entr(logits.float().softmax(dim=-1)).sum(dim=-1)
    by_step = entropy.unflatten(1, (space.horizon, space.width))[..., ~space.padding]
    share: Tensor = by_step.mean(dim=-1) / math.log(logits.shape[-1])
    return share
