"""Weights of other projects, renamed to ours: PaliGemma and openpi's π0 and π0.5."""

from e0_lightning.weights.filling import Place, Plan, Report, fill
from e0_lightning.weights.openpi import plan
from e0_lightning.weights.shards import find_shards, read_names, read_tensors

__all__ = [
    "Place",
    "Plan",
    "Report",
    "fill",
    "find_shards",
    "plan",
    "read_names",
    "read_tensors",
]
