"""`e0 benchmark multimodality`: policies of experiments on demonstrations with two ways."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from e0_lightning.benchmarks.multimodality import Settings, compare_policies
from e0_lightning.benchmarks.two_way_reach import HORIZON
from e0_lightning.cli.lightning_cli import build_experiment
from e0_lightning.policies.base import Policy

SHIPPED = ["--config=maniskill.yaml"]

EXPERIMENTS: dict[str, list[str]] = {
    "E0": SHIPPED,
    "E0, K = 2048": [*SHIPPED, "--config=ablation/bins.yaml"],
    "E0, one-hot codes": [*SHIPPED, "--config=ablation/one_hot_codes.yaml"],
    "E0, paper": [*SHIPPED, "--config=setting/paper.yaml"],
    "FlowMatching": [*SHIPPED, "--config=policy/flow_matching.yaml"],
    "E0Hybrid": [*SHIPPED, "--config=policy/hybrid.yaml"],
    "MaskedDiffusion": [*SHIPPED, "--config=policy/masked_diffusion.yaml"],
    "Autoregressive": [*SHIPPED, "--config=policy/autoregressive.yaml"],
    "Regression": [*SHIPPED, "--config=policy/regression.yaml"],
}
"""Options of the experiments that are compared without ``--config``."""

TINY: dict[str, Any] = {
    "data": None,
    "trainer": {"callbacks": None},
    "model": {
        "init_args": {
            "encoder": {
                "vision": None,
                "language": {
                    "config": {
                        "model_type": "llama",
                        "hidden_size": 32,
                        "intermediate_size": 64,
                        "num_hidden_layers": 2,
                        "num_attention_heads": 2,
                        "num_key_value_heads": 2,
                        "head_dim": 16,
                    }
                },
                "state_dim": 1,
                "binarize_state_at_inference": None,
            },
            "expert": {"width": 64, "depth": 2, "heads": 4, "mlp": 128},
            "actions": {
                "horizon": HORIZON,
                "normalizer": {"class_path": "QuantileNormalizer", "init_args": {"dim": 2}},
                "relative": None,
            },
            "optimizer": {"lr": 4e-3, "min_lr": 4e-5, "warmup_steps": 50},
        }
    },
}
"""Config that replaces networks, sizes and optimizer of an experiment, and nothing else."""


def benchmark_multimodality(
    out: Path,
    experiment: list[str] | None = None,
    steps: int = 1500,
    share: float = 0.7,
    num_chunks: int = 1000,
    seeds: list[int] | None = None,
    only: list[str] | None = None,
) -> None:
    """Train policies on a reach with two ways around an obstacle, and classify their chunks.

    Process, sampler and tokens are those of the experiments; networks and optimizer are tiny. The
    demonstrator goes over the obstacle with a known probability, and never changes its way within a
    chunk. Columns: ``share`` of chunks over the obstacle, with its 95 % interval (over chunks, or
    over trainings if there are several seeds); ``mode_consistency``, share of chunks that keep to
    one way; ``off_manifold``, share of chunks that are on neither; seconds of training. E0 has rows
    by its number N of denoising steps, and a table of token accuracy by signal-to-noise ratio.

    Args:
        out: Folder for ``multimodality.md``, ``.json`` and ``.png``, a picture of chunks.
        experiment: Options that describe a policy to ``lightning fit``: ``--config FILE``, and any
            of ``--model…``. Without, shipped experiments are compared.
        steps: Optimizer steps of each policy.
        share: Probability of the way over the obstacle in the demonstrations.
        num_chunks: Chunks per policy, each for another obstacle.
        seeds: Seeds of weights, training and sampling, a training each; None for 0.
        only: Names of shipped experiments, as in the table; None for all.

    Raises:
        ValueError: If there is no such experiment.
    """
    experiments = {"the experiment": experiment} if experiment else EXPERIMENTS
    if unknown := set(only or []) - set(experiments):
        raise ValueError(f"only: expected names among {list(experiments)}, got {sorted(unknown)}.")
    builders = {
        name: partial(build_tiny_policy, options)
        for name, options in experiments.items()
        if only is None or name in only
    }
    settings = Settings(steps, share, num_chunks, tuple(seeds or [0]))
    compare_policies(Path(out), builders, settings)


def build_tiny_policy(experiment: list[str], seed: int = 0) -> Policy:
    """Policy of an experiment with tiny networks and a seed of its own, for the two-way reach."""
    options = [*experiment, f"--config={json.dumps(TINY)}", f"--seed_everything={seed}"]
    policy: Policy = build_experiment(options).model
    return policy
