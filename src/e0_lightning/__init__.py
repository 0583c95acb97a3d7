"""E0, Tweedie discrete diffusion for robot actions, as PyTorch Lightning modules."""

from e0_lightning.actions.normalizer import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.actions.space import ActionSpace
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.augment.callback import ViewpointPerturbation
from e0_lightning.augment.viewpoint import SphericalWarp
from e0_lightning.data.robot_demos import RobotDemos
from e0_lightning.diffusion.flow import RectifiedFlow
from e0_lightning.diffusion.masking import ConfidenceSampler, TokenMasking
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
from e0_lightning.policies.autoregressive import Autoregressive
from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.policies.e0 import E0
from e0_lightning.policies.flow_matching import FlowMatching
from e0_lightning.policies.hybrid import E0Hybrid
from e0_lightning.policies.masked_diffusion import MaskedDiffusion
from e0_lightning.policies.optimization import CosineAdamW
from e0_lightning.policies.regression import Regression
from e0_lightning.simulation.episodes import ManiSkillEpisodes
from e0_lightning.simulation.libero_episodes import LiberoEpisodes
from e0_lightning.simulation.report import RolloutReport
from e0_lightning.types import Batch, Contract, Observation

__all__ = [
    "E0",
    "ActionExpert",
    "ActionSpace",
    "ActionTokenizer",
    "ArgmaxSampler",
    "Autoregressive",
    "Batch",
    "CategoricalSampler",
    "ConfidenceSampler",
    "Contract",
    "CosineAdamW",
    "E0Hybrid",
    "FlowMatching",
    "LanguageModel",
    "LiberoEpisodes",
    "ManiSkillEpisodes",
    "MaskedDiffusion",
    "MeanStdNormalizer",
    "Observation",
    "OneHotDiffusion",
    "Policy",
    "PrefixEncoder",
    "QuantileNormalizer",
    "RectifiedFlow",
    "Regression",
    "RelativeActions",
    "ReleasedSampler",
    "RobotDemos",
    "RolloutReport",
    "SphericalWarp",
    "TokenMasking",
    "TweedieSampler",
    "ViewpointPerturbation",
    "VisionEncoder",
    "build_policy",
    "load_policy",
]
