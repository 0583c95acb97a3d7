"""Policies as LightningModules, one method per file."""

from e0_lightning.policies.autoregressive import Autoregressive
from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.policies.e0 import E0
from e0_lightning.policies.e0_hybrid import E0Hybrid
from e0_lightning.policies.flow_matching import FlowMatching
from e0_lightning.policies.masked_diffusion import MaskedDiffusion
from e0_lightning.policies.regression import Regression
from e0_lightning.training.finetuning import FineTuning
from e0_lightning.training.optimizer import CosineAdamW
from e0_lightning.training.sharding import ShardedAveraging

__all__ = [
    "E0",
    "Autoregressive",
    "CosineAdamW",
    "E0Hybrid",
    "FineTuning",
    "FlowMatching",
    "MaskedDiffusion",
    "Policy",
    "Regression",
    "ShardedAveraging",
    "build_policy",
    "load_policy",
]
