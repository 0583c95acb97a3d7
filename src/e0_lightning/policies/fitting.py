"""Sizes and statistics that a policy takes from the demonstrations it is fitted on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import Normalizer
from e0_lightning.actions.quantiles import RunningQuantiles
from e0_lightning.types import PolicySpec

MAX_DEPTH = 20
"""Parts within parts of an action space whose settings are compared."""


class Demonstrations(Protocol):
    """A data module of demonstrations, such as ``RobotDemos``.

    An optional attribute ``source`` names it in error messages, and an optional ``instructions``
    lists its sentences. An optional method ``result(what, code, compute)`` returns the plain values
    that ``compute`` did, which it may keep from an earlier run.
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


def fit_statistics(demonstrations: Demonstrations, actions: ActionSpace, state: Normalizer) -> None:
    """Fit the normalizers of actions and state in one pass over the training chunks.

    Args:
        demonstrations: Data module, which may keep what is fitted.
        actions: Action space, whose normalizer is fitted.
        state: Normalizer of the state.
    """
    normalizers = {"actions": actions.normalizer, "state": state}

    def fit() -> dict[str, Any]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _fit(demonstrations, actions, state)
        values = {name: _buffers(normalizer) for name, normalizer in normalizers.items()}
        return {"values": values, "warnings": [str(each.message) for each in caught]}

    classes: list[type] = []
    settings = _describe([actions, state], classes)
    keep = getattr(demonstrations, "result", lambda what, code, compute: compute())
    kept = keep(settings, classes, fit)
    for name, normalizer in normalizers.items():
        for buffer, values in kept["values"][name].items():
            target = normalizer.get_buffer(buffer)
            target.copy_(torch.tensor(values, dtype=target.dtype))
    for message in kept["warnings"]:
        warnings.warn(message, stacklevel=3)


def _fit(demonstrations: Demonstrations, actions: ActionSpace, state: Normalizer) -> None:
    statistics = RunningQuantiles(state.dim)

    def chunks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for chunk, states, valid in demonstrations.action_chunks():
            statistics.update(states)
            yield chunk, states, valid

    actions.fit(chunks())
    state.fit_statistics(statistics)


def _describe(value: Any, classes: list[type], depth: int = 0) -> Any:
    """Settings of a module and its parts as plain values; their classes are added to a list."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_describe(each, classes, depth + 1) for each in value]
    if isinstance(value, Mapping):
        return [[str(key), _describe(value[key], classes, depth + 1)] for key in value]
    if depth > MAX_DEPTH or not hasattr(value, "__dict__") or isinstance(value, type):
        return repr(value)
    classes.append(type(value))
    settings = {name: each for name, each in vars(value).items() if name != "training"}
    return _describe(settings, classes, depth + 1)


def _buffers(module: nn.Module) -> dict[str, Any]:
    return {name: buffer.tolist() for name, buffer in module.named_buffers()}
