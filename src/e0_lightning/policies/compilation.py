"""Compilation of the networks that a policy acts with."""

from __future__ import annotations

from typing import Any

import torch

from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.policies.base import Policy


def compile_networks(policy: Policy, backend: str = "inductor") -> None:
    """Compile vision, language model and expert with ``torch.compile``; the next call compiles.

    Each is one graph: a layer's mask, positions and residuals are fused with its neighbours'. The
    loop of the sampler stays outside, so that its steps share a graph; so do the tokenizer and the
    random draws, which cannot be compiled.

    Args:
        policy: Policy that acts; its weights may still change.
        backend: Backend of ``torch.compile``.
    """
    for network in (policy.encoder.vision, policy.encoder.language):
        if network is not None:
            network.compile(backend=backend)
    for expert in policy.modules():
        if isinstance(expert, ActionExpert):
            # `forward` calls it, as do policies whose tokens attend to earlier ones.
            compiled: Any = torch.compile(expert.extend, backend=backend)
            object.__setattr__(expert, "extend", compiled)
