"""Robot units to normalized actions to tokens, and back."""

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.quantiles import RunningQuantiles
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.actions.tokenizer import ActionTokenizer

__all__ = [
    "ActionSpace",
    "ActionTokenizer",
    "MeanStdNormalizer",
    "QuantileNormalizer",
    "RelativeActions",
    "RunningQuantiles",
]
