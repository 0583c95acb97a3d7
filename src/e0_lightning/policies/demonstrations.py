"""What a policy takes from the demonstrations it is first fitted on: sizes that fit, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import QuantileNormalizer
from e0_lightning.actions.quantiles import RunningQuantiles
from e0_lightning.types import PolicySpec


def require_sizes(found: PolicySpec, actions: ActionSpace, state_dim: int, source: str) -> None:
    """Refuse data whose sizes are not those that a policy was built for.

    Args:
        found: PolicySpec of the data.
        actions: The policy's.
        state_dim: State dimensions Q of the policy.
        source: What the spec belongs to, for the message.

    Raises:
        ValueError: If a size differs, naming the argument of the policy and both values.
    """
    own = {
        "action_dim (model.actions.normalizer.dim)": (actions.dim, found.action_dim),
        "state dimensions (model.encoder.state_dim)": (state_dim, found.state_dim),
        "horizon (model.actions.horizon)": (actions.horizon, found.horizon),
    }
    differing = [f"  {name}: {a}, {source} has {b}" for name, (a, b) in own.items() if a != b]
    if differing:
        raise ValueError(
            f"The policy was built for other data than {source}:\n"
            + "\n".join(differing)
            + f"\nSet them to the values of {source} (state parts {found.state})."
        )


def fit_statistics(datamodule: Any, actions: ActionSpace, state: QuantileNormalizer) -> None:
    """Quantiles of actions and states, in one pass over the training windows.

    Args:
        datamodule: With ``action_windows()``, as ``RobotDemos`` has.
        actions: Takes the quantiles of actions.
        state: Takes those of states.
    """
    seen = RunningQuantiles(state.dim)

    def windows() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for chunk, states, valid in datamodule.action_windows():
            seen.update(states)
            yield chunk, states, valid

    actions.fit(windows())
    state.fit_statistics(seen)
