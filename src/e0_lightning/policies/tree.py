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
    if given.get("name") or given.get("tokenizer") not in (None, "byt5"):
        given.pop("name", None)
        given.update(language.settings())
    return tree


def _arguments(node: Any) -> dict[str, Any]:
    """Constructor arguments of a node, which may name its class or leave it out."""
    if not isinstance(node, dict):
        return {}
    inner = node.get("init_args", node)
    return inner if isinstance(inner, dict) else {}
