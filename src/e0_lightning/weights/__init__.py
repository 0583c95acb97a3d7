"""Weights of other projects, renamed to ours: PaliGemma and openpi's π0 and π0.5."""

from e0_lightning.weights.mapping import Report, TensorMapping, WeightMapping, load_mapped
from e0_lightning.weights.openpi import plan
from e0_lightning.weights.shards import find_shards, read_names, read_tensors

__all__ = [
    "Report",
    "TensorMapping",
    "WeightMapping",
    "find_shards",
    "load_mapped",
    "plan",
    "read_names",
    "read_tensors",
]
