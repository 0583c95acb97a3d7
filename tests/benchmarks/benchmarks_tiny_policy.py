"""A tiny E0 with a vision encoder."""

from copy import deepcopy

from e0_lightning.policies.checkpoint import build_policy

LANGUAGE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SETTINGS = {
    "encoder": {
        "vision": {"name": "test_vit", "size": 32},
        "language": {"config": LANGUAGE},
        "state_dim": 1,
    },
    "actions": {
        "horizon": 12,
        "normalizer": {"class_path": "e0_lightning.QuantileNormalizer", "init_args": {"dim": 2}},
    },
    "expert": {"width": 64, "depth": 2, "heads": 4, "mlp": 128},
    "process": {"num_bins": 64},
}


def tiny_policy(**changes):
    policy = build_policy(
        {"class_path": "e0_lightning.E0", "init_args": deepcopy(SETTINGS) | changes}
    )
    policy.configure_model()
    return policy
