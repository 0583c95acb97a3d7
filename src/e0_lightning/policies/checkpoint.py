"""Policies built from plain values, and rebuilt from their checkpoints alone."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, get_args

import torch
from jsonargparse import ArgumentParser

from e0_lightning.policies.base import Policy, Precision
from e0_lightning.policies.compilation import compile_networks
from e0_lightning.training.checkpoint_file import check_finite, one_line, read_checkpoint

PACKAGE = "e0_lightning"


def build_policy(settings: dict[str, Any]) -> Policy:
    """Build a policy from a tree of plain values, as a YAML file holds it.

    Args:
        settings: ``{"class_path": ..., "init_args": {...}}``.

    Returns:
        A policy whose checkpoints hold that tree, so that :func:`load_policy` opens them.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Policy, "policy", fail_untyped=False)
    config = parser.parse_object({"policy": _qualified(settings)})
    tree = config.policy.as_dict()
    policy: Policy = parser.instantiate_classes(config).policy
    policy.save_hyperparameters(
        {
            "_class_path": tree["class_path"],
            **tree.get("init_args", {}),
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        }
    )
    return policy


def load_policy(
    path: str | PathLike[str],
    device: torch.device | str = "cpu",
    precision: Precision = "32-true",
    trust: Sequence[str] = (),
    compile: bool = False,
) -> Policy:
    """Rebuild the policy of a checkpoint, ready to act.

    Only tensors and plain values are unpickled, and only classes of this package are built, unless
    ``trust`` names others. With weight averaging, the averaged weights are loaded.

    Args:
        path: Checkpoint of a policy that was built by the command line or by :func:`build_policy`.
        device: Device to act on.
        precision: ``bf16-mixed`` computes in bfloat16, as under the trainer's option of this name.
        trust: Modules or packages that may be imported, such as ``["my_research"]``.
        compile: Compile the networks with ``torch.compile``, which takes a minute or more at the
            first action and needs a C++ compiler; see `compile_networks`.

    Returns:
        The policy; one with imported weights and no data yet has no spec, and cannot act.

    Raises:
        ValueError: If the file is no checkpoint of a policy, names a class of a module that is not
            trusted, does not fit its class, or holds weights that are not finite.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected one of {get_args(Precision)}, got {precision!r}.")
    checkpoint = read_checkpoint(path)
    tree = dict(checkpoint.get("hyper_parameters", {}))
    tree.pop("_instantiator", None)
    if "_class_path" not in tree:
        raise ValueError(
            f"{path}: expected the constructor tree of a policy, got keys {sorted(checkpoint)}. "
            "Checkpoints have one if the policy is built by the `lightning` command or by "
            "build_policy; else build the policy and load 'state_dict' into it."
        )
    settings = {"class_path": tree.pop("_class_path"), "init_args": tree}
    for class_path in untrusted_classes(settings, trust):
        module = class_path.rpartition(".")[0] or class_path
        raise ValueError(
            f"{path}: expected classes of {', '.join([PACKAGE, *trust])}, got {class_path}, which "
            f"is not imported. If you trust the author, pass trust=[{module.split('.')[0]!r}] "
            "(`e0 serve --trust`)."
        )
    try:
        policy = build_policy(settings)
        policy.configure_model()  # adapters, whose weights the checkpoint holds
        policy.on_load_checkpoint(checkpoint)
        policy.load_state_dict(checkpoint["state_dict"])
    except Exception as error:
        raise ValueError(
            f"{path}: expected a checkpoint of this version of {settings['class_path']}, got one "
            f"that does not fit it: {one_line(error)}"
        ) from error
    check_finite(dict(policy.named_parameters()), str(path))
    policy.precision = precision
    policy.to(device).eval()
    if compile:
        compile_networks(policy)
    return policy


def untrusted_classes(node: Any, trust: Sequence[str] = ()) -> Iterator[str]:
    """Import paths in a constructor tree outside of this package and the trusted modules.

    A parser imports the ``class_path`` of a dict, and a string in place of a class; so a dotted
    string whose first part is an installed module counts too.

    Args:
        node: Tree of plain values.
        trust: Trusted modules and packages.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "class_path" and isinstance(value, str):
                if not _is_trusted(value, trust):
                    yield value
            else:
                yield from untrusted_classes(value, trust)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from untrusted_classes(value, trust)
    elif isinstance(node, str) and "." in node and not _is_trusted(node, trust):
        parts = node.split(".")
        if all(part.isidentifier() for part in parts) and _is_module(parts[0]):
            yield node


def _is_trusted(path: str, trust: Sequence[str]) -> bool:
    return any(path.startswith(f"{module}.") for module in (PACKAGE, *trust))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _qualified(node: Any) -> Any:
    """A tree whose bare class names are import paths, if this package has a class of that name."""
    if isinstance(node, list):
        return [_qualified(value) for value in node]
    if not isinstance(node, dict):
        return node
    tree = {key: _qualified(value) for key, value in node.items()}
    if _is_own(tree.get("class_path")):
        tree["class_path"] = f"{PACKAGE}.{tree['class_path']}"
    return tree


def _is_own(name: Any) -> bool:
    return isinstance(name, str) and hasattr(importlib.import_module(PACKAGE), name)
