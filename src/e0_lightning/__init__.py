"""E0, Tweedie discrete diffusion for robot actions, as PyTorch Lightning modules."""

from e0_lightning.actions.normalizer import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.actions.space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.process import OneHotDiffusion
from e0_lightning.diffusion.samplers import (
    ArgmaxSampler,
    CategoricalSampler,
    ReleasedSampler,
    TweedieSampler,
)
from e0_lightning.networks.expert import ActionExpert
from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.prefix import PrefixEncoder
from e0_lightning.networks.vision import VisionEncoder
from e0_lightning.types import Batch, Contract, Observation

__all__ = [
    "ActionExpert",
    "ActionSpace",
    "ActionTokenizer",
    "ArgmaxSampler",
    "Batch",
    "CategoricalSampler",
    "Contract",
    "LanguageModel",
    "MeanStdNormalizer",
    "Observation",
    "OneHotDiffusion",
    "PrefixEncoder",
    "QuantileNormalizer",
    "RelativeActions",
    "ReleasedSampler",
    "TweedieSampler",
    "VisionEncoder",
]
