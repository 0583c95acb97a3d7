"""`e0 benchmark multimodality`: how well policies represent a bimodal action distribution."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader

from e0_lightning.benchmarks.plots import plot_chunks
from e0_lightning.benchmarks.two_way_reach import (
    HORIZON,
    ReachDataModule,
    evaluate_chunks,
    observe,
    sample_chunks,
    sample_obstacles,
)
from e0_lightning.diffusion.samplers import ArgmaxSampler, CategoricalSampler, TweedieSampler
from e0_lightning.diffusion.schedules import IdentifiabilitySchedule
from e0_lightning.metrics import wilson
from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy

NUM_BINS, ALPHA, NUM_STEPS = 64, 1.0, 10
"""Stronger signal than the paper's α = 0.1 and Gaussian targets, which are learned sooner, for the
variants of E0 that are compared with other policies."""

NUM_PLOTTED = 60
"""Chunks in each panel of the plot."""

SCHEDULE = IdentifiabilitySchedule(NUM_BINS, ALPHA)
"""Noise levels at which tokens are identifiable."""

NOISE = {"num_bins": NUM_BINS, "alpha": ALPHA}
TAU = {"class_path": "e0_lightning.diffusion.schedules.IdentifiabilityTau", "init_args": NOISE}
E0_PROCESS = {"process": {**NOISE, "target_sigma": 1.0, "tau_distribution": TAU}}

SHIPPED: dict[str, Any] = {"num_bins": 256, "alpha": 0.1, "target_sigma": 4.0}
"""Process of ``experiments/maniskill.yaml``."""

SHIPPED_RANGE = {"num_bins": SHIPPED["num_bins"], "alpha": SHIPPED["alpha"]}
WIDE_CODES = {
    **SHIPPED,
    "code_sigma": 41.0,
    "matched_filter": True,
    "tau_distribution": {**TAU, "init_args": SHIPPED_RANGE},
}
"""The same with ``experiments/ablation/wide_codes.yaml``."""

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "E0, shipped": ("E0", {"process": SHIPPED}),
    "E0, wide codes": ("E0", {"process": WIDE_CODES}),
    "E0": ("E0", E0_PROCESS),
    "E0, self-conditioned": ("E0", {**E0_PROCESS, "self_conditioning": True}),
    "FlowMatching": ("FlowMatching", {}),
    "MaskedDiffusion": ("MaskedDiffusion", {"process": {"num_bins": NUM_BINS}}),
    "Autoregressive": ("Autoregressive", {"num_bins": NUM_BINS}),
    "Regression": ("Regression", {}),
    "E0Hybrid": ("E0Hybrid", {"process": {**NOISE, "target_sigma": 1.0}}),
}
"""Trained policies: name to class and its own arguments."""

WIDE_SCHEDULE = IdentifiabilitySchedule(**SHIPPED_RANGE)

INFERENCE_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "E0, shipped": {
        f"E0, shipped, N = {steps}": {"sampler": TweedieSampler(steps, None, "expectation")}
        for steps in (1, 2, 4, 10)
    },
    "E0, wide codes": {
        f"E0, wide codes, N = {steps}": {
            "sampler": TweedieSampler(steps, WIDE_SCHEDULE, "expectation")
        }
        for steps in (1, 2, 4, 10)
    },
    "E0": {
        "E0": {"sampler": TweedieSampler(NUM_STEPS, None, "center")},
        "E0, identifiability steps": {"sampler": TweedieSampler(NUM_STEPS, SCHEDULE, "center")},
        "E0, expectation": {"sampler": TweedieSampler(NUM_STEPS, None, "expectation")},
        "E0, argmax": {"sampler": ArgmaxSampler(NUM_STEPS, None)},
        "E0, categorical": {"sampler": CategoricalSampler(NUM_STEPS, None)},
    },
    "E0, self-conditioned": {
        "E0, self-conditioned": {"sampler": TweedieSampler(NUM_STEPS, None, "center")},
    },
    "Autoregressive": {
        "Autoregressive, greedy": {"temperature": 0.0},
        "Autoregressive, sampled": {"temperature": 1.0},
    },
}
"""Trained policy to its rows of the table: row to attributes that are set after training."""


def benchmark(
    out: Path,
    steps: int = 1500,
    share: float = 0.7,
    num_chunks: int = 1000,
    only: list[str] | None = None,
    seed: int = 0,
) -> None:
    """Train tiny policies on a reach with two ways around an obstacle and classify their chunks.

    The demonstrator goes over the obstacle with a known probability, and never changes its way
    within a chunk. Columns: ``share`` of chunks over the obstacle, with its 95 % interval;
    ``mode_consistency``, share of chunks that keep to one way; ``off_manifold``, share of chunks
    that are on neither. ``multimodality.png`` shows chunks.

    Args:
        out: Folder for ``multimodality.md``, ``.json`` and ``.png``.
        steps: Optimizer steps of each policy.
        share: Probability of the way over the obstacle in the demonstrations.
        num_chunks: Chunks per policy, each for another obstacle.
        only: Names of policies; None for all.
        seed: Seed of weights, training and sampling.

    Raises:
        ValueError: If there is no such policy.
    """
    if unknown := set(only or []) - set(POLICIES):
        raise ValueError(f"only: expected names among {list(POLICIES)}, got {sorted(unknown)}.")
    generator = torch.Generator().manual_seed(seed)
    obstacle, plotted = sample_obstacles(num_chunks, generator), torch.zeros(NUM_PLOTTED)
    rows = {"demonstrations": summarize(sample_chunks(obstacle, share, generator), obstacle)}
    chunks = {"demonstrations": sample_chunks(plotted, share, generator)}
    for name in only or POLICIES:
        start = perf_counter()
        policy = train(name, steps, share, seed)
        seconds = perf_counter() - start
        for variant in inference_variants(name, policy):
            sampled = sample(policy, torch.cat([obstacle, plotted]))
            rows[variant] = {
                **summarize(sampled[:num_chunks], obstacle),
                "training_seconds": seconds,
            }
            chunks[variant] = sampled[num_chunks:]
    settings = {"steps": steps, "share": share, "num_chunks": num_chunks, "seed": seed}
    write_results(Path(out), rows, chunks, settings)


def train(name: str, steps: int, share: float, seed: int = 0) -> Policy:
    """Train a tiny policy, given by its name in ``POLICIES``."""
    seed_everything(seed, verbose=False)
    policy = build_policy(policy_settings(name))
    _trainer(max_steps=steps).fit(policy, datamodule=ReachDataModule(share, steps))
    return policy.eval()


def sample(policy: Policy, obstacle: Tensor) -> Tensor:
    """Sample chunks ``(B, H, 2)`` for obstacles ``(B,)``, reproducibly."""
    batches = [observe(part) for part in obstacle.split(1000)]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    chunks: Any = _trainer().predict(policy, loader)
    return torch.cat(chunks)


def policy_settings(name: str) -> dict[str, Any]:
    """Return the constructor tree of a tiny policy, given by its name in ``POLICIES``."""
    language = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    normalizer = {"class_path": "e0_lightning.QuantileNormalizer", "init_args": {"dim": 2}}
    args = {
        "encoder": {
            # There are no images, but every policy has a vision encoder.
            "vision": {"name": "test_vit", "size": 32},
            "language": {"config": language},
            "state_dim": 1,
        },
        "actions": {"horizon": HORIZON, "normalizer": normalizer},
        "expert": {"width": 64, "depth": 2, "heads": 4, "mlp": 128},
        "optimizer": {"lr": 4e-3, "min_lr": 4e-5, "warmup_steps": 50},
    }
    class_name, own = POLICIES[name]
    return {"class_path": f"e0_lightning.{class_name}", "init_args": args | own}


def inference_variants(name: str, policy: Policy) -> Iterator[str]:
    """Set a policy up for each of its rows in the table, and yield the name of the row."""
    for variant, attributes in INFERENCE_VARIANTS.get(name, {name: {}}).items():
        for attribute, value in attributes.items():
            setattr(policy, attribute, value)
        yield variant


def summarize(chunks: Tensor, obstacle: Tensor) -> dict[str, float]:
    """Classify chunks ``(B, H, 2)`` and return the share of each class."""
    evaluation = evaluate_chunks(chunks, obstacle)
    over = wilson(int(evaluation.over.sum()), len(chunks))
    return {
        "share": over.rate,
        "low": over.low,
        "high": over.high,
        "mode_consistency": float(evaluation.consistent.float().mean()),
        "off_manifold": float(evaluation.off_manifold.float().mean()),
    }


def write_results(
    folder: Path, rows: dict[str, Any], chunks: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    """Write table, numbers and plot, and print the table."""
    lines = [
        "| policy | share | 95 % interval | mode_consistency | off_manifold | training, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['share']:.1%} | {row['low']:.1%} – {row['high']:.1%} "
            f"| {row['mode_consistency']:.1%} | {row['off_manifold']:.1%} "
            f"| {row.get('training_seconds', 0):.0f} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in settings.items())]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "multimodality.md").write_text("\n".join(lines) + "\n")
    content = json.dumps({**settings, "rows": rows}, indent=2) + "\n"
    (folder / "multimodality.json").write_text(content)
    titles = {name: f"{name}\n{row['share']:.0%} over" for name, row in rows.items()}
    plot_chunks({titles[name]: each for name, each in chunks.items()}, folder / "multimodality.png")
    print("\n".join(lines))


def _trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
