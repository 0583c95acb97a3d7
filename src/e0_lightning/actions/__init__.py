"""Actions from robot units to normalized chunks to tokens, and back."""

from e0_lightning.actions.action_prefix import ActionPrefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import MeanStdNormalizer, Normalizer, QuantileNormalizer
from e0_lightning.actions.quantiles import RunningQuantiles
from e0_lightning.actions.relative import RelativeActions, RelativeRotation
from e0_lightning.actions.tokenizer import ActionTokenizer

__all__ = [
    "ActionPrefix",
    "ActionSpace",
    "ActionTokenizer",
    "MeanStdNormalizer",
    "Normalizer",
    "QuantileNormalizer",
    "RelativeActions",
    "RelativeRotation",
    "RunningQuantiles",
]
