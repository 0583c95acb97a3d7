"""Sizes and statistics that a policy takes from the demonstrations it is fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import QuantileNormalizer
from e0_lightning.actions.quantiles import RunningQuantiles
from e0_lightning.types import PolicySpec


class Demonstrations(Protocol):
    """A data module of demonstrations, such as ``RobotDemos``.

    An optional attribute ``source`` names it in error messages, and an optional ``instructions``
    lists its sentences.
    """

    @property
    def spec(self) -> PolicySpec:
        """Observation and action spec."""
        ...

    def action_chunks(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Training actions ``(N, H, D)``, state ``(N, Q)`` and ``valid`` ``(N, H)``, by batch."""
        ...


def check_sizes(spec: PolicySpec, actions: ActionSpace, state_dim: int, source: str) -> None:
    """Refuse data whose sizes differ from those that a policy was built for.

    Args:
        spec: Spec of the data.
        actions: Action space of the policy.
        state_dim: State dimensions Q of the policy.
        source: Owner of the spec, for the message.

    Raises:
        ValueError: If a size differs, naming the argument of the policy and both values.
    """
    sizes = {
        "model.actions.normalizer.dim": (spec.action_dim, actions.dim),
        "model.encoder.state_dim": (spec.state_dim, state_dim),
        "model.actions.horizon": (spec.horizon, actions.horizon),
    }
    differing = [
        f"  {name}: expected {expected}, got {given}"
        for name, (expected, given) in sizes.items()
        if expected != given
    ]
    if differing:
        raise ValueError(
            f"The policy was built for other sizes than those of {source} (state parts "
            f"{spec.state}):\n" + "\n".join(differing) + "\nSet these values, or leave them out."
        )


def fit_statistics(
    demonstrations: Demonstrations, actions: ActionSpace, state: QuantileNormalizer
) -> None:
    """Fit the normalizers of actions and state in one pass over the training chunks.

    Args:
        demonstrations: Data module.
        actions: Action space, whose normalizer is fitted.
        state: Normalizer of the state.
    """
    statistics = RunningQuantiles(state.dim)

    def chunks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for chunk, states, valid in demonstrations.action_chunks():
            statistics.update(states)
            yield chunk, states, valid

    actions.fit(chunks())
    state.fit_statistics(statistics)
