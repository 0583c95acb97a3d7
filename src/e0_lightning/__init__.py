"""E0, Tweedie discrete diffusion for robot actions, as PyTorch Lightning modules."""

from e0_lightning.actions.normalizer import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.actions.space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.augment.callback import ViewpointPerturbation
from e0_lightning.augment.viewpoint import SphericalWarp
from e0_lightning.data.robot_demos import RobotDemos
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
from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.policies.e0 import E0
from e0_lightning.policies.optimization import CosineAdamW
from e0_lightning.types import Batch, Contract, Observation

__all__ = [
    "E0",
    "ActionExpert",
    "ActionSpace",
    "ActionTokenizer",
    "ArgmaxSampler",
    "Batch",
    "CategoricalSampler",
    "Contract",
    "CosineAdamW",
    "LanguageModel",
    "MeanStdNormalizer",
    "Observation",
    "OneHotDiffusion",
    "Policy",
    "PrefixEncoder",
    "QuantileNormalizer",
    "RelativeActions",
    "ReleasedSampler",
    "RobotDemos",
    "SphericalWarp",
    "TweedieSampler",
    "ViewpointPerturbation",
    "VisionEncoder",
    "build_policy",
    "load_policy",
]
