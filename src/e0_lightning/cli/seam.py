"""`e0 benchmark seam`: a checkpoint and a robot that does not wait for it."""

from __future__ import annotations

from e0_lightning.benchmarks.chunk_boundary import benchmark
from e0_lightning.cli.serving import load
from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.maniskill import DEFAULT_MAX_STEPS, MAX_STEPS, ManiSkillEnvironment


def benchmark_seam(
    checkpoint: str,
    task: str = "PushCube-v1",
    episodes: int = 20,
    first_seed: int = 100_000,
    n_action_steps: int = 8,
    delay: int = 4,
    num_envs: int = 1,
) -> None:
    """Print how actions jump from chunk to chunk in ManiSkill, with real-time chunking and without.

    The robot does not wait: a chunk arrives `delay` steps after the view that it was chosen for.

    Args:
        checkpoint: Written by the trainer.
        task: ManiSkill's name of the task.
        episodes: Episodes, on the seeds from `first_seed` on, played both ways.
        first_seed: First seed.
        n_action_steps: Steps from one view to the next; with `delay`, at most the policy's horizon.
        delay: Steps from a view to the chunk for it.
        num_envs: Environments that step in parallel, a process each.
    """
    cap = MAX_STEPS.get(task, DEFAULT_MAX_STEPS)
    played = [EvalEpisode(task, first_seed + n, cap) for n in range(episodes)]
    settings = {"n_action_steps": n_action_steps, "delay": delay, "num_envs": num_envs}
    print(benchmark(load(checkpoint), played, make_environment=ManiSkillEnvironment, **settings))
