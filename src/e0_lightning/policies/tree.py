"""The constructor tree of a policy, made to need no file besides its checkpoint."""

from __future__ import annotations

import copy
from typing import Any

from e0_lightning.networks.language import LanguageModel


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
