"""`e0 benchmark memory | latency`: memory and time that the policy of an experiment takes."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging

from e0_lightning.benchmarks.latency import Timing, latency_table, measure_latency
from e0_lightning.benchmarks.memory import (
    estimate_memory,
    measure_memory,
    memory_table,
    random_batch,
)
from e0_lightning.cli.lightning_cli import build_experiment
from e0_lightning.data.datamodule import RobotDemos


def benchmark_memory(experiment: list[str]) -> None:
    """Print parameters by part and the memory of a training step; measured too on a GPU.

    Sizes come from the experiment's demonstrations. Without them, give
    ``--model.encoder.state_dim``, ``--model.actions.normalizer.dim`` and
    ``--model.actions.horizon``.

    Args:
        experiment: Options that describe it to ``lightning fit``: ``--config FILE``, and any of
            ``--trainer…``, ``--data…`` and ``--model…``.
    """
    with torch.device("meta"):
        built = build_experiment(experiment)
    policy, data = built.model, _data(built)
    policy.configure_model()
    batch = random_batch(policy, list(data.views), data.batch_size)
    trainer: Any = built.trainer
    is_averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    is_half_precision = "16" in str(trainer.precision)
    estimated, measured = estimate_memory(policy, batch, is_averaged, is_half_precision), None
    if torch.cuda.is_available():
        on_gpu = build_experiment(experiment).model.cuda()
        on_gpu.configure_model()
        measured = measure_memory(on_gpu, random_batch(on_gpu, list(data.views), data.batch_size))
    print(memory_table(policy, estimated, measured))


def benchmark_latency(experiment: list[str]) -> None:
    """Print the time of a training step and of inference, by part; on a GPU where there is one.

    Batch size, cameras, horizon and denoising steps are the experiment's. Sizes come from its
    demonstrations; without them, give them as for ``e0 benchmark memory``.

    Args:
        experiment: Options that describe it to ``lightning fit``: ``--config FILE``, and any of
            ``--trainer…``, ``--data…`` and ``--model…``.
    """
    print(latency_table(time_experiment(experiment)))


def time_experiment(experiment: list[str]) -> list[Timing]:
    """Times of the policy of an experiment, as `benchmark_latency` prints them."""
    built = build_experiment(experiment)
    data = _data(built)
    policy = built.model.cuda() if torch.cuda.is_available() else built.model
    policy.configure_model()
    return measure_latency(policy, list(data.views), data.batch_size)


def _data(built: Any) -> RobotDemos:
    """The experiment's data module, whose cameras and batch size are those that are measured."""
    if not isinstance(built.datamodule, RobotDemos):
        raise ValueError(
            "data: expected RobotDemos, whose views and batch_size are measured, got "
            f"{type(built.datamodule).__name__}. Give an experiment with data."
        )
    data: RobotDemos = built.datamodule
    return data
