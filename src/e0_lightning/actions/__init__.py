"""Robot units to normalised actions to tokens, and back."""

from e0_lightning.actions.normalizer import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.actions.space import ActionSpace
from e0_lightning.actions.statistics import RunningQuantiles
from e0_lightning.actions.tokenizer import ActionTokenizer

__all__ = [
    "ActionSpace",
    "ActionTokenizer",
    "MeanStdNormalizer",
    "QuantileNormalizer",
    "RelativeActions",
    "RunningQuantiles",
]
