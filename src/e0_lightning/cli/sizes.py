"""Sizes that a config leaves out, from the demonstrations' spec, before the model is built.

So the constructor arguments in a checkpoint are complete. Sizes that are given stay, and are
checked against the data when the policy is fitted.
"""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from e0_lightning.types import PolicySpec

SIZES = {
    "encoder.state_dim": "state_dim",
    "actions.normalizer.dim": "action_dim",
    "actions.horizon": "horizon",
    "state_normalizer.dim": "state_dim",
}
"""Constructor argument of a policy to the field of :class:`PolicySpec` that it equals."""


def share_state_dim(model: Any) -> None:
    """Give the normalizer of the state the dimensions of the encoder's, where only those are."""
    state_dim = getattr(_settings(_descend(model, ["encoder"])), "state_dim", None)
    if _is_missing(model, "state_normalizer.dim"):
        _descend(model, ["state_normalizer"])["init_args"]["dim"] = state_dim


def missing_sizes(model: Any) -> list[str]:
    """Sizes that a parsed model has as options but leaves out."""
    return [key for key in SIZES if _is_missing(model, key)]


def fill_sizes(model: Any, spec: PolicySpec) -> None:
    """Write the sizes of demonstrations where a parsed model leaves them out.

    Args:
        model: ``class_path`` and ``init_args``, as the command line has parsed them.
        spec: Spec of the demonstrations.
    """
    for key in missing_sizes(model):
        *parents, name = key.split(".")
        owner = _descend(model, parents)
        owner["init_args"][name] = getattr(spec, SIZES[key])


def _is_missing(model: Any, key: str) -> bool:
    *parents, name = key.split(".")
    settings = _settings(_descend(model, parents))
    return settings is not None and name in settings and settings[name] is None


def _descend(node: Any, names: list[str]) -> Any:
    for name in names:
        settings = _settings(node)
        node = None if settings is None else settings.get(name)
    return node


def _settings(node: Any) -> Any:
    """Constructor arguments of a parsed class; None where the node is no class."""
    settings = node.get("init_args") if isinstance(node, Namespace) else None
    return settings if isinstance(settings, Namespace) else None
