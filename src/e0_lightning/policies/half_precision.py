"""Acting in bfloat16, as under ``trainer.precision: bf16-mixed``, without a trainer."""

from __future__ import annotations

import torch
from torch import Tensor

from e0_lightning.policies.base import Policy
from e0_lightning.types import ActionSample, Observation, PolicySpec


class HalfPrecision:
    """A policy that computes in bfloat16 what autocast lets it; its weights stay as they are.

    Args:
        policy: On the device it acts on.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @property
    def spec(self) -> PolicySpec:
        """What the policy must be shown and what its actions mean."""
        return self.policy.spec

    def act(self, observation: Observation) -> Tensor:
        """Choose the next H actions, ``(B, H, D)``, robot units."""
        return self.sample_actions(observation).actions

    def sample_actions(self, observation: Observation) -> ActionSample:
        """Choose what :meth:`act` does, with its uncertainty."""
        with torch.autocast(self.policy.device.type, torch.bfloat16):
            return self.policy.sample_actions(observation)
