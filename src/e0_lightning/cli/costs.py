"""`e0 benchmark memory | speed`: what an experiment's policy costs to train and to ask."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging

from e0_lightning.benchmarks.latency import benchmark_policy
from e0_lightning.benchmarks.memory import describe, estimate, measure, random_batch
from e0_lightning.cli.experiment import build


def benchmark_memory(experiment: list[str]) -> None:
    """Print parameters by part and the memory of a training step; measured too on a GPU.

    Args:
        experiment: What describes it to ``lightning fit``, as it is there: ``--config FILE``, and
            any of ``--trainer…``, ``--data…`` and ``--model…``.
    """
    with torch.device("meta"):
        built = build(experiment)
    policy, data = built.model, built.datamodule
    policy.configure_model()
    batch = random_batch(policy, data.views, data.batch_size)
    trainer: Any = built.trainer
    averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    halved = "16" in str(trainer.precision)
    estimated, measured = estimate(policy, batch, averaged, halved), None
    if torch.cuda.is_available():
        real = build(experiment).model.cuda()
        real.configure_model()
        measured = measure(real, random_batch(real, data.views, data.batch_size))
    print(describe(policy, estimated, measured))


def benchmark_speed(experiment: list[str]) -> None:
    """Print the time of a training step and of a decision, by part; on a GPU where there is one.

    Batch size, cameras, horizon and denoising steps are the experiment's.

    Args:
        experiment: What describes it to ``lightning fit``, as it is there: ``--config FILE``, and
            any of ``--trainer…``, ``--data…`` and ``--model…``.
    """
    built = build(experiment)
    policy = built.model.cuda() if torch.cuda.is_available() else built.model
    policy.configure_model()
    print(benchmark_policy(policy, built.datamodule.views, built.datamodule.batch_size))
