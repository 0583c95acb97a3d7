from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.augment.image_augmentation import ImageAugmentation
from e0_lightning.augment.spherical_warp import SphericalWarp
from e0_lightning.augment.viewpoint import ViewpointPerturbation
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.base import DemoReader
from e0_lightning.diffusion.flow_matching import RectifiedFlow
from e0_lightning.diffusion.masked import ConfidenceSampler, TokenMasking
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import (
    ArgmaxSampler,
    CategoricalSampler,
    ReleasedSampler,
    Sampler,
    TweedieSampler,
)
from e0_lightning.evaluation.aloha_episodes import AlohaEpisodes
from e0_lightning.evaluation.droid_episodes import DroidEpisodes
from e0_lightning.evaluation.libero_episodes import LiberoEpisodes
from e0_lightning.evaluation.maniskill_episodes import ManiSkillEpisodes
from e0_lightning.evaluation.pusht_episodes import PushTEpisodes
from e0_lightning.evaluation.report.callback import RolloutReport
from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.language import LanguageModel
from e0_lightning.networks.prefix_encoder import PrefixEncoder
from e0_lightning.networks.vision import VisionEncoder
from e0_lightning.policies.autoregressive import Autoregressive
from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.policies.e0 import E0
from e0_lightning.policies.e0_hybrid import E0Hybrid
from e0_lightning.policies.flow_matching import FlowMatching
from e0_lightning.policies.masked_diffusion import MaskedDiffusion
from e0_lightning.policies.regression import Regression
from e0_lightning.training.callbacks.best_checkpoint import BestCheckpoint
from e0_lightning.training.finetuning import FineTuning
from e0_lightning.training.optimizer import CosineAdamW
from e0_lightning.types import ActionSample, Batch, NormalizedBatch, Observation, PolicySpec

__version__: str
__all__ = [
    "E0",
    "ActionExpert",
    "ActionSample",
    "ActionSpace",
    "ActionTokenizer",
    "AlohaEpisodes",
    "ArgmaxSampler",
    "Autoregressive",
    "Batch",
    "BestCheckpoint",
    "CategoricalSampler",
    "ConfidenceSampler",
    "CosineAdamW",
    "DemoReader",
    "DroidEpisodes",
    "E0Hybrid",
    "FineTuning",
    "FlowMatching",
    "ImageAugmentation",
    "LanguageModel",
    "LiberoEpisodes",
    "ManiSkillEpisodes",
    "MaskedDiffusion",
    "MeanStdNormalizer",
    "NormalizedBatch",
    "Observation",
    "OneHotDiffusion",
    "Policy",
    "PolicySpec",
    "PrefixEncoder",
    "PushTEpisodes",
    "QuantileNormalizer",
    "RectifiedFlow",
    "Regression",
    "RelativeActions",
    "ReleasedSampler",
    "RobotDemos",
    "RolloutReport",
    "Sampler",
    "SphericalWarp",
    "TokenMasking",
    "TweedieSampler",
    "ViewpointPerturbation",
    "VisionEncoder",
    "__version__",
    "build_policy",
    "load_policy",
]
