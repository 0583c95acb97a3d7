"""`e0 benchmark memory | speed | chunk-boundary`: what a policy costs, in memory and in time."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging

from e0_lightning.benchmarks.chunk_boundary import compare_prefixes
from e0_lightning.benchmarks.latency import latency_table
from e0_lightning.benchmarks.memory import (
    estimate_memory,
    measure_memory,
    memory_table,
    random_batch,
)
from e0_lightning.cli.lightning_cli import build_experiment
from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.maniskill import DEFAULT_MAX_STEPS, MAX_STEPS, ManiSkillEnvironment
from e0_lightning.policies.checkpoint import load_policy


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
    policy, data = built.model, built.datamodule
    policy.configure_model()
    batch = random_batch(policy, data.views, data.batch_size)
    trainer: Any = built.trainer
    is_averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    is_half_precision = "16" in str(trainer.precision)
    estimated, measured = estimate_memory(policy, batch, is_averaged, is_half_precision), None
    if torch.cuda.is_available():
        on_gpu = build_experiment(experiment).model.cuda()
        on_gpu.configure_model()
        measured = measure_memory(on_gpu, random_batch(on_gpu, data.views, data.batch_size))
    print(memory_table(policy, estimated, measured))


def benchmark_speed(experiment: list[str]) -> None:
    """Print the time of a training step and of inference, by part; on a GPU where there is one.

    Batch size, cameras, horizon and denoising steps are the experiment's. Sizes come from its
    demonstrations; without them, give them as for ``e0 benchmark memory``.

    Args:
        experiment: Options that describe it to ``lightning fit``: ``--config FILE``, and any of
            ``--trainer…``, ``--data…`` and ``--model…``.
    """
    built = build_experiment(experiment)
    policy = built.model.cuda() if torch.cuda.is_available() else built.model
    policy.configure_model()
    print(latency_table(policy, built.datamodule.views, built.datamodule.batch_size))


def benchmark_chunk_boundary(
    checkpoint: str,
    task: str = "PushCube-v1",
    episodes: int = 20,
    first_seed: int = 100_000,
    n_action_steps: int = 8,
    delay: int = 4,
    num_envs: int = 1,
) -> None:
    """Print how actions jump between chunks in ManiSkill, with real-time chunking and without.

    The robot moves during inference: a chunk arrives `delay` steps after its observation.

    Args:
        checkpoint: Checkpoint of the trainer.
        task: ManiSkill's name of the task.
        episodes: Episodes, on the seeds from `first_seed` on, each run both ways.
        first_seed: First seed.
        n_action_steps: Steps between observations; with `delay`, at most the policy's horizon.
        delay: Steps from an observation to its chunk.
        num_envs: Parallel environments, one process each.
    """
    max_steps = MAX_STEPS.get(task, DEFAULT_MAX_STEPS)
    evaluated = [EvalEpisode(task, first_seed + n, max_steps) for n in range(episodes)]
    settings = {"n_action_steps": n_action_steps, "delay": delay, "num_envs": num_envs}
    policy = load_policy(checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    print(compare_prefixes(policy, evaluated, make_environment=ManiSkillEnvironment, **settings))
