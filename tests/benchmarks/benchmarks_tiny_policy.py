"""A tiny E0 with a vision encoder."""

from e0_lightning.benchmarks.multimodality import policy_settings
from e0_lightning.policies.checkpoint import build_policy


def tiny_policy(**changes):
    settings = policy_settings("E0")
    settings["init_args"] |= changes
    policy = build_policy(settings)
    policy.configure_model()
    return policy
