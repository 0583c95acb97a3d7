"""`e0 benchmark modes`: does a policy keep two ways round an obstacle apart, and in proportion?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from e0_lightning.benchmarks.two_way_reach import RADIUS, Reach, draw, judge, observe, places
from e0_lightning.comparison.chart import figure_class
from e0_lightning.diffusion.samplers import ArgmaxSampler, CategoricalSampler, TweedieSampler
from e0_lightning.diffusion.schedules import IdentifiabilitySchedule
from e0_lightning.metrics import wilson
from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy

BINS, ALPHA, STEPS = 64, 1.0, 10
"""Larger signals than the paper's α = 0.1, with target_sigma targets: both are learnt sooner, and 300
steps at 0.1 with one-hot targets, a token per step, left 99 % of chunks off both ways."""

SHOWN = 60
"""Chunks of a panel of the picture."""

ABLE = IdentifiabilitySchedule(BINS, ALPHA)
"""Steps where a token can be told from noise."""

NOISY = {"num_bins": BINS, "alpha": ALPHA}
DENSITY = {"class_path": "e0_lightning.diffusion.schedules.IdentifiabilityTau", "init_args": NOISY}

CLASSIFIER = {"process": {**NOISY, "target_sigma": 1.0, "tau_distribution": DENSITY}}

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "E0": ("E0", CLASSIFIER),
    "E0, self-conditioned": ("E0", {**CLASSIFIER, "self_conditioning": True}),
    "FlowMatching": ("FlowMatching", {}),
    "MaskedDiffusion": ("MaskedDiffusion", {"process": {"num_bins": BINS}}),
    "Autoregressive": ("Autoregressive", {"num_bins": BINS}),
    "Regression": ("Regression", {}),
    "E0Hybrid": ("E0Hybrid", {"process": {**NOISY, "target_sigma": 1.0}}),
}
"""What is trained: its name, its class and its own settings."""

READINGS: dict[str, dict[str, dict[str, Any]]] = {
    "E0": {
        "E0": {"sampler": TweedieSampler(STEPS, None, "center")},
        "E0, steps where it tells": {"sampler": TweedieSampler(STEPS, ABLE, "center")},
        "E0, expectation": {"sampler": TweedieSampler(STEPS, None, "expectation")},
        "E0, argmax": {"sampler": ArgmaxSampler(STEPS, None)},
        "E0, categorical": {"sampler": CategoricalSampler(STEPS, None)},
    },
    "E0, self-conditioned": {
        "E0, self-conditioned": {"sampler": TweedieSampler(STEPS, None, "center")},
    },
    "Autoregressive": {
        "Autoregressive, greedy": {"temperature": 0.0},
        "Autoregressive, drawn": {"temperature": 1.0},
    },
}
"""How weights are read, where in several ways: row to attributes of the trained policy."""


def modes(
    out: Path,
    steps: int = 1500,
    share: float = 0.7,
    draws: int = 1000,
    only: list[str] | None = None,
) -> None:
    """Train tiny policies on a reach with two ways round an obstacle, and see which they take.

    The demonstrator goes over the obstacle with a known probability, each chunk whole. The table
    tells how often a policy does, how many of its chunks keep to one way, and how many lie off
    both; ``modes.png`` shows chunks.

    Args:
        out: Folder for ``modes.md``, ``modes.json`` and ``modes.png``.
        steps: Optimizer steps for each policy.
        share: Probability of the way over.
        draws: Chunks to judge a policy by, each for another obstacle.
        only: Names of policies; None for all.

    Raises:
        ValueError: If there is no such policy.
    """
    if strange := set(only or []) - set(POLICIES):
        raise ValueError(f"only: there is no {sorted(strange)}; choose from {list(POLICIES)}.")
    obstacle, still = places(draws, torch.Generator().manual_seed(0)), torch.zeros(SHOWN)
    rows = {"truth": row(draw(obstacle, share), obstacle)}
    pictures = {"truth": draw(still, share)}
    for name in only or POLICIES:
        started = perf_counter()
        policy = train(name, steps, share)
        seconds = perf_counter() - started
        for reading in readings(name, policy):
            torch.manual_seed(0)
            chunks = policy.act(observe(obstacle))
            rows[reading] = {**row(chunks, obstacle), "seconds": seconds}
            pictures[reading] = policy.act(observe(still))
    told = {"steps": steps, "share": share, "draws": draws}
    write(Path(out), rows, pictures, told)


def train(name: str, steps: int, share: float) -> Policy:
    """A tiny policy by its name, trained."""
    torch.manual_seed(0)
    policy = build_policy(settings(name))
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(policy, datamodule=Reach(share, steps))
    return policy.eval()


def settings(name: str) -> dict[str, Any]:
    """The constructor tree of a tiny policy by its name."""
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
        # Nothing is seen, but every policy has eyes.
        "encoder": {
            "vision": {"name": "test_vit", "side": 32},
            "language": {"config": language},
            "state_dim": 1,
        },
        "actions": {"horizon": 12, "normalizer": normalizer},
        "expert": {"width": 64, "depth": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 128},
        "optimizer": {"lr": 4e-3, "min_lr": 4e-5, "warmup_steps": 50},
    }
    kind, own = POLICIES[name]
    return {"class_path": f"e0_lightning.{kind}", "init_args": args | own}


def readings(name: str, policy: Policy) -> Iterator[str]:
    """Set a policy up in each of the ways it is read, and say which."""
    for reading, attributes in READINGS.get(name, {name: {}}).items():
        for attribute, value in attributes.items():
            setattr(policy, attribute, value)
        yield reading


def row(chunks: Tensor, obstacle: Tensor) -> dict[str, Any]:
    """Shares of chunks ``(B, H, 2)``: over the obstacle with its interval, whole, off both ways."""
    found = judge(chunks, obstacle)
    over = wilson(int(found.over.sum()), len(chunks))
    return {
        "over": over.rate,
        "low": over.low,
        "high": over.high,
        "whole": float(found.whole.float().mean()),
        "off": float(found.off.float().mean()),
    }


def write(
    folder: Path, rows: dict[str, Any], pictures: dict[str, Tensor], told: dict[str, Any]
) -> None:
    """Write the three files, and print the table."""
    lines = [
        "|  | over the obstacle | 95 % interval | of one way | off both | training, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in rows.items():
        lines.append(
            f"| {name} | {found['over']:.1%} | {found['low']:.1%} – {found['high']:.1%} "
            f"| {found['whole']:.1%} | {found['off']:.1%} | {found.get('seconds', 0):.0f} |"
        )
    lines += ["", *(f"- {name}: {value}" for name, value in told.items())]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modes.md").write_text("\n".join(lines) + "\n")
    (folder / "modes.json").write_text(json.dumps({**told, "rows": rows}, indent=2) + "\n")
    picture(rows, pictures, folder / "modes.png")
    print("\n".join(lines))


def picture(rows: dict[str, Any], pictures: dict[str, Tensor], path: Path) -> None:
    """Draw chunks ``(B, H, 2)`` of each policy past the same obstacle, coloured by way."""
    columns = min(4, len(pictures))
    high = -(-len(pictures) // columns)
    figure = figure_class()(figsize=(3 * columns, 2.4 * high), layout="constrained")
    panels = list(figure.subplots(high, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, chunks) in zip(panels, pictures.items(), strict=False):
        for chunk, over in zip(chunks, judge(chunks, torch.zeros(len(chunks))).over, strict=True):
            axes.plot(*chunk.T, color="#2b5c8a" if over else "#c64", alpha=0.3, linewidth=1)
        angles = torch.linspace(0, 2 * torch.pi, 60)
        axes.fill(RADIUS * angles.cos(), RADIUS * angles.sin(), color="#bbb")
        found = rows[name]
        axes.set(xlim=(-1.1, 1.1), ylim=(-0.9, 0.9), aspect="equal")
        axes.set_title(
            f"{name}\n{found['over']:.0%} over, {found['whole']:.0%} whole, {found['off']:.0%} off",
            fontsize=8,
        )
    figure.savefig(path, dpi=150)
