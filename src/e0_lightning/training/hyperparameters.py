"""The constructor tree of a policy: kept, and made to need no file besides its checkpoint."""

from __future__ import annotations

import copy
import warnings
from typing import Any, cast

import lightning.pytorch as pl

from e0_lightning.networks.language import LanguageModel


def keep_tree(module: pl.LightningModule) -> None:
    """Save constructor arguments that are plain values, as the command line gives them.

    Built by hand, they are modules: a checkpoint holds their weights, not the objects.

    Args:
        module: Still in its constructor.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
        module.save_hyperparameters(logger=False)
    if "_class_path" not in module.hparams:
        module.hparams.clear()
        cast(Any, module)._hparams_initial = copy.deepcopy(module._hparams)


def self_contained(tree: dict[str, Any], language: LanguageModel) -> dict[str, Any]:
    """Put in place of names what they stand for.

    Weights are in the checkpoint, so none need be read again; a language model given by name
    becomes its configuration and its tokenizer.

    Args:
        tree: Constructor arguments of a policy, plain values; it is not changed.
        language: The model that was built from them.
    """
    tree = copy.deepcopy(tree)
    tree.pop("weights", None)
    encoder = _arguments(tree.get("encoder"))
    vision, given = _arguments(encoder.get("vision")), _arguments(encoder.get("language"))
    if vision.get("pretrained"):
        vision["pretrained"] = False
    if _is_named(given):
        given.pop("name", None)
        given.update(language.settings())
    return tree


def comparable(
    asked: dict[str, Any], saved: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leave out of two trees what :func:`self_contained` replaced when the second was saved.

    Args:
        asked: Constructor arguments of a policy, as a user gives them; not changed.
        saved: Those in a checkpoint; not changed.
    """
    asked, saved = copy.deepcopy(asked), copy.deepcopy(saved)
    encoders = [_arguments(tree.get("encoder")) for tree in (asked, saved)]
    languages = [_arguments(encoder.get("language")) for encoder in encoders]
    replaced = ("name", "config", "tokenizer") if _is_named(languages[0]) else ()
    for tree, encoder, language in zip((asked, saved), encoders, languages, strict=True):
        tree.pop("weights", None)
        _arguments(encoder.get("vision")).pop("pretrained", None)
        for name in replaced:
            language.pop(name, None)
    return asked, saved


def _is_named(language: dict[str, Any]) -> bool:
    """Whether building a language model takes files or a hub."""
    return bool(language.get("name")) or language.get("tokenizer") not in (None, "byt5")


def _arguments(node: Any) -> dict[str, Any]:
    """Constructor arguments of a node, which may name its class or leave it out."""
    if not isinstance(node, dict):
        return {}
    inner = node.get("init_args", node)
    return inner if isinstance(inner, dict) else {}
