"""Import of pretrained weights: PaliGemma and openpi's π0 and π0.5."""

from e0_lightning.weights.mapping import (
    MappingReport,
    TensorMapping,
    WeightMapping,
    load_mapped,
)
from e0_lightning.weights.openpi import openpi_mapping
from e0_lightning.weights.shards import find_shards, read_names, read_tensors

__all__ = [
    "MappingReport",
    "TensorMapping",
    "WeightMapping",
    "find_shards",
    "load_mapped",
    "openpi_mapping",
    "read_names",
    "read_tensors",
]
