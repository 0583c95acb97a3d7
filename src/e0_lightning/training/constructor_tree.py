"""Constructor arguments of a policy as plain values, which rebuild it from its checkpoint."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Protocol, cast

import lightning.pytorch as pl

TRAINING_ONLY = ("weights", "metrics")
"""Arguments without effect on a trained policy; they are left out of its checkpoint."""


class _Language(Protocol):
    def settings(self) -> dict[str, Any]: ...


def save_constructor_tree(module: pl.LightningModule) -> None:
    """Keep constructor arguments that are plain values, as the command line gives them.

    A module built in Python gets objects: its checkpoints hold their weights only. Loggers get the
    tree as hyperparameters.

    Args:
        module: Module whose constructor is running.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
        module.save_hyperparameters()
    if "_class_path" not in module.hparams:
        module.hparams.clear()
        cast(Any, module)._hparams_initial = copy.deepcopy(module._hparams)


def make_self_contained(tree: dict[str, Any], language: _Language) -> dict[str, Any]:
    """Replace references to files and to the hub by their content.

    The checkpoint holds the weights, so none are loaded again; a language model given by name
    becomes its configuration and tokenizer.

    Args:
        tree: Constructor arguments of a policy, plain values; it is not changed.
        language: Language model that was built from them.
    """
    tree = copy.deepcopy(tree)
    for name in TRAINING_ONLY:
        tree.pop(name, None)
    encoder = _arguments(tree.get("encoder"))
    vision, given = _arguments(encoder.get("vision")), _arguments(encoder.get("language"))
    if vision.get("pretrained"):
        vision["pretrained"] = False
    if _is_reference(given):
        given.pop("name", None)
        given.update(language.settings())
    return tree


def comparable_trees(
    given: dict[str, Any], saved: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leave out of two trees what :func:`make_self_contained` replaced in the second.

    Args:
        given: Constructor arguments of a policy, from a user; not changed.
        saved: Those in a checkpoint; not changed.
    """
    given, saved = copy.deepcopy(given), copy.deepcopy(saved)
    encoders = [_arguments(tree.get("encoder")) for tree in (given, saved)]
    languages = [_arguments(encoder.get("language")) for encoder in encoders]
    replaced = ("name", "config", "tokenizer") if _is_reference(languages[0]) else ()
    for tree, encoder, language in zip((given, saved), encoders, languages, strict=True):
        for name in TRAINING_ONLY:
            tree.pop(name, None)
        _arguments(encoder.get("vision")).pop("pretrained", None)
        for name in replaced:
            language.pop(name, None)
    return given, saved


def _is_reference(language: dict[str, Any]) -> bool:
    """Whether building a language model needs files or the hub."""
    return bool(language.get("name")) or language.get("tokenizer") not in (None, "byt5")


def _arguments(node: Any) -> dict[str, Any]:
    """Constructor arguments of a node, with or without a class path."""
    if not isinstance(node, dict):
        return {}
    inner = node.get("init_args", node)
    return inner if isinstance(inner, dict) else {}
