"""Weight mapping of transformers' PaliGemma: SigLIP (to timm's names), projector, Gemma."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

from e0_lightning.weights.mapping import TensorMapping, WeightMapping

REQUIRED = r"encoder\.(vision|projector|language)\."
WORDS = r"(^|\.)lm_head\.weight$"
"""Output layer of words, equal to the embedding that is loaded."""

# Versions of transformers, and projects that wrap its model, prefix the same names differently.
PREFIX = re.compile(r"^(model\.)?(paligemma_with_expert\.)?(paligemma\.)?(model\.)?")

VISION = {
    "embeddings.patch_embedding": "patch_embed.proj",
    "post_layernorm": "norm",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def paligemma_mapping(names: Iterable[str]) -> WeightMapping:
    """Map the tensors of a PaliGemma checkpoint to a policy.

    Args:
        names: Tensor names of the checkpoint.
    """
    return WeightMapping("PaliGemma", paligemma_tensors(names), REQUIRED, unused=WORDS)


def paligemma_tensors(names: Iterable[str]) -> dict[str, TensorMapping]:
    """Map source names to targets, for the sources that have one."""
    stripped = {name: PREFIX.sub("", name) for name in names}
    has_embedding = any(name.endswith("embed_tokens.weight") for name in stripped.values())
    mapped = {name: _tensor(short, has_embedding) for name, short in stripped.items()}
    return {name: target for name, target in mapped.items() if target is not None}


def _tensor(name: str, has_embedding: bool) -> TensorMapping | None:
    if name.startswith("multi_modal_projector.linear."):
        return TensorMapping("encoder.projector." + name.rpartition(".")[2])
    if name.startswith("vision_tower."):
        return _vision(re.sub(r"^vision_tower\.(vision_model\.)?", "", name))
    short = re.sub(r"^language_model\.(model\.)?", "", name)
    # The output layer shares the embedding; files hold one of the two.
    if short == "embed_tokens.weight" or (short == "lm_head.weight" and not has_embedding):
        return TensorMapping("encoder.language.model.embed_tokens.weight", vocabulary=True)
    if re.match(r"(layers\.|norm\.)", short) and short != name:
        return TensorMapping("encoder.language.model." + short)
    return None


def _vision(name: str) -> TensorMapping | None:
    """Map a tensor of transformers' SigLIP to timm's vision transformer."""
    backbone = "encoder.vision.backbone."
    if name == "embeddings.position_embedding.weight":
        return TensorMapping(backbone + "pos_embed", transform=_add_batch)
    layer = re.match(r"encoder\.layers\.(\d+)\.(.*)$", name)
    block, rest = (f"blocks.{layer[1]}.", layer[2]) if layer else ("", name)
    joined = re.match(r"self_attn\.([qkv])_proj\.(\w+)$", rest)
    if joined:
        return TensorMapping(
            f"{backbone}{block}attn.qkv.{joined[2]}", slice=("qkv".index(joined[1]), 3)
        )
    stem, _, kind = rest.rpartition(".")
    return TensorMapping(f"{backbone}{block}{VISION[stem]}.{kind}") if stem in VISION else None


def _add_batch(positions: Tensor) -> Tensor:
    return positions.unsqueeze(0)
