"""LightningModules, one method per file."""

from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.policies.e0 import E0
from e0_lightning.policies.optimization import CosineAdamW

__all__ = ["E0", "CosineAdamW", "Policy", "build_policy", "load_policy"]
