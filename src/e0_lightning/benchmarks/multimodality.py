"""How well policies represent a bimodal action distribution: the two-way reach."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader

from e0_lightning.benchmarks.plots import plot_chunks
from e0_lightning.benchmarks.two_way_reach import (
    TOLERANCE,
    ReachDataModule,
    evaluate_chunks,
    observe,
    sample_chunks,
    sample_obstacles,
)
from e0_lightning.diffusion.samplers import ArgmaxSampler, CategoricalSampler, Sampler
from e0_lightning.metrics import mean_score, wilson
from e0_lightning.policies.base import Policy
from e0_lightning.policies.e0 import E0

NUM_STEPS = (1, 2, 4, 10)
"""Denoising steps N of E0's rows."""

RULES: dict[str, type[Sampler]] = {"argmax": ArgmaxSampler, "categorical": CategoricalSampler}
"""Other samplers of E0, at its own schedule and the largest N."""

LOG_SNR = (-4.0, -2.0, 0.0, 2.0, 4.0)
"""Noise levels of the table of accuracy, ``ln (τ α / (1 − τ))²``, after τ = 0."""

NUM_PLOTTED = 60
"""Chunks in each panel of the plot."""

COLUMNS = ("over", "consistent", "off_manifold")


@dataclass(frozen=True)
class Settings:
    """Settings of the comparison.

    Args:
        steps: Optimizer steps of each policy.
        share: Probability of the way over the obstacle in the demonstrations.
        num_chunks: Chunks per policy, each for another obstacle.
        seeds: Seeds of weights, training and sampling, a training each.
    """

    steps: int
    share: float
    num_chunks: int
    seeds: tuple[int, ...]


def compare_policies(
    out: Path, builders: Mapping[str, Callable[[int], Policy]], settings: Settings
) -> None:
    """Train policies on the two-way reach, and write and print how they represent both ways.

    Args:
        out: Folder for ``multimodality.md``, ``.json`` and ``.png``.
        builders: Name to what builds a policy for the reach, from a seed.
        settings: Steps, seeds and numbers of chunks.
    """
    generator = torch.Generator().manual_seed(0)
    obstacle, plotted = sample_obstacles(settings.num_chunks, generator), torch.zeros(NUM_PLOTTED)
    demonstrated = sample_chunks(obstacle, settings.share, generator)
    rows = {"demonstrations": [summarize(demonstrated, obstacle)]}
    panels = {"demonstrations": sample_chunks(plotted, settings.share, generator)}
    accuracy: dict[str, list[list[float]]] = {}
    for name, build in builders.items():
        for seed in settings.seeds:
            start = perf_counter()
            policy = train(build, settings.steps, settings.share, seed)
            seconds = perf_counter() - start
            for variant in sampling_variants(name, policy):
                chunks = sample(policy, torch.cat([obstacle, plotted]))
                summary = summarize(chunks[: settings.num_chunks], obstacle)
                rows.setdefault(variant, []).append({**summary, "training_seconds": seconds})
                panels.setdefault(variant, chunks[settings.num_chunks :])
            if isinstance(policy, E0):
                found = accuracy_by_snr(policy, demonstrated, obstacle)
                accuracy.setdefault(name, []).append(found)
    write_results(out, rows, accuracy, settings)
    titles = {f"{name}\n{rows[name][0]['over']:.0%} over": each for name, each in panels.items()}
    plot_chunks(titles, out / "multimodality.png")


def train(build: Callable[[int], Policy], steps: int, share: float, seed: int = 0) -> Policy:
    """Build a policy and train it, reproducibly."""
    policy = build(seed)
    seed_everything(seed, verbose=False)
    _trainer(max_steps=steps).fit(policy, datamodule=ReachDataModule(share, steps))
    return policy.eval()


def sample(policy: Policy, obstacle: Tensor) -> Tensor:
    """Sample chunks ``(B, H, 2)`` for obstacles ``(B,)``, reproducibly."""
    batches = [observe(part) for part in obstacle.split(1000)]
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    chunks: Any = _trainer().predict(policy, loader)
    return torch.cat(chunks)


def sampling_variants(name: str, policy: Policy) -> Iterator[str]:
    """Set a policy up for each of its rows in the table, and yield the name of the row."""
    if not isinstance(policy, E0):
        yield name
        return
    own = policy.sampler
    for num_steps in NUM_STEPS:
        own.num_steps = num_steps
        yield f"{name}, N = {num_steps}"
    for rule, sampler in RULES.items():
        if not isinstance(own, sampler):
            policy.sampler = sampler(NUM_STEPS[-1], own.schedule)
            yield f"{name}, {rule}, N = {NUM_STEPS[-1]}"
    policy.sampler = own


def summarize(chunks: Tensor, obstacle: Tensor) -> dict[str, float]:
    """Classify chunks ``(B, H, 2)`` for obstacles ``(B,)``: the share of each class."""
    evaluation = evaluate_chunks(chunks, obstacle)
    return {
        column: float(values.float().mean())
        for column, values in zip(COLUMNS, evaluation, strict=True)
    }


@torch.inference_mode()
def accuracy_by_snr(policy: E0, chunks: Tensor, obstacle: Tensor) -> list[float]:
    """Share of tokens whose most likely bin is near the true one, by noise level.

    Near is within the demonstrator's noise, so that the other way does not count.

    Args:
        policy: A trained policy.
        chunks: Demonstrated chunks, ``(B, H, 2)``.
        obstacle: Their obstacles, ``(B,)``.

    Returns:
        One share at τ = 0, and one at each of ``LOG_SNR``.
    """
    observation = observe(obstacle)
    prefix = policy.encode(observation)
    normalized = policy.actions.normalize(chunks, observation["state"])
    tokens = policy.tokenizer.encode(normalized).flatten(1)
    generator = torch.Generator().manual_seed(0)
    accuracies = []
    for log_snr in (-torch.inf, *LOG_SNR):
        root = torch.tensor(log_snr / 2).exp()
        tau = (root / (policy.process.alpha + root)).expand(len(tokens))
        x_tau = policy.process.corrupt(tokens, tau, generator)
        logits = policy.denoise(x_tau, tau, prefix)
        likely = policy.tokenizer.decode(logits.argmax(dim=-1)).view_as(normalized)
        error = policy.actions.undo(likely, observation["state"]) - chunks
        accuracies.append(float((error.abs() < TOLERANCE).float().mean()))
    return accuracies


def write_results(
    folder: Path,
    rows: dict[str, list[dict[str, float]]],
    accuracy: dict[str, list[list[float]]],
    settings: Settings,
) -> None:
    """Write tables and numbers, and print the tables.

    Args:
        folder: Where to.
        rows: Row to the summaries of its trainings.
        accuracy: Policy to the accuracies of its trainings, as of :func:`accuracy_by_snr`.
        settings: Settings of the comparison.
    """
    lines = [
        "| policy | share | 95 % interval | mode_consistency | off_manifold | training, s |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(name, trainings, settings) for name, trainings in rows.items()),
    ]
    if accuracy:
        heads = ["τ = 0", *(f"ln SNR = {level:g}" for level in LOG_SNR)]
        lines += [
            "",
            f"| token accuracy | {' | '.join(heads)} |",
            "| --- |" + " --- |" * len(heads),
        ]
    for name, trainings in accuracy.items():
        means = torch.tensor(trainings).mean(dim=0).tolist()
        lines.append(f"| {name} | {' | '.join(f'{mean:.1%}' for mean in means)} |")
    lines += ["", *(f"- {name}: {value}" for name, value in asdict(settings).items())]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "multimodality.md").write_text("\n".join(lines) + "\n")
    content = {**asdict(settings), "rows": rows, "accuracy": accuracy}
    (folder / "multimodality.json").write_text(json.dumps(content, indent=2) + "\n")
    print("\n".join(lines))


def _row(name: str, trainings: list[dict[str, float]], settings: Settings) -> str:
    """Means over trainings, and the interval over them, or over chunks if there is one training."""
    means = {key: sum(each[key] for each in trainings) / len(trainings) for key in trainings[0]}
    if len(trainings) > 1:
        interval: Any = mean_score([each["over"] for each in trainings])
    else:
        interval = wilson(round(means["over"] * settings.num_chunks), settings.num_chunks)
    return (
        f"| {name} | {means['over']:.1%} | {interval.low:.1%} – {interval.high:.1%} "
        f"| {means['consistent']:.1%} | {means['off_manifold']:.1%} "
        f"| {means.get('training_seconds', 0):.0f} |"
    )


def _trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
