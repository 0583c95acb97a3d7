"""`e0 benchmark chunk-boundary`: how actions jump from chunk to chunk under inference delay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.maniskill import DEFAULT_MAX_STEPS, MAX_STEPS, ManiSkillEnvironment
from e0_lightning.evaluation.rollout import OnResult, Rollouts, choose_actions
from e0_lightning.evaluation.worker_handle import WorkerHandle
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.types import Actor, EpisodeResult

Floats = NDArray[np.float32]

COLUMNS = ("within chunks", "at boundaries", "jump")


def benchmark(
    checkpoint: str,
    task: str = "PushCube-v1",
    num_episodes: int = 20,
    first_seed: int = 100_000,
    n_action_steps: int = 8,
    delay: int = 4,
    num_envs: int = 1,
    trust: list[str] | None = None,
) -> None:
    """Print the jump of actions at chunk boundaries in ManiSkill, with and without action prefix.

    The robot does not wait for the policy: a chunk arrives `delay` steps after its observation.

    Args:
        checkpoint: Checkpoint of a policy.
        task: ManiSkill's name of the task.
        num_episodes: Episodes, on the seeds from `first_seed` on, each run both ways.
        first_seed: First seed.
        n_action_steps: Steps between observations; plus `delay`, at most the policy's horizon.
        delay: Steps from an observation to its chunk.
        num_envs: Environments that step in parallel, each in its own process.
        trust: Modules of your own that the checkpoint may import classes from.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_policy(checkpoint, device, trust=trust or ())
    max_steps = MAX_STEPS.get(task, DEFAULT_MAX_STEPS)
    episodes = [EvalEpisode(task, first_seed + n, max_steps) for n in range(num_episodes)]
    table = compare_prefixes(
        policy,
        episodes,
        make_environment=ManiSkillEnvironment,
        n_action_steps=n_action_steps,
        delay=delay,
        num_envs=num_envs,
    )
    print(table)


class RealTimeRollouts(Rollouts):
    """Rollouts in which a chunk arrives some steps after its observation.

    The actor gets an observation every `n_action_steps` steps. During inference the robot executes
    the next `delay` actions of the previous chunk; the first `delay` actions of the new chunk are
    then outdated and skipped. Only before its first chunk does an episode wait.

    Args:
        settings: Arguments of :class:`Rollouts`, by name.
        delay: Steps d from an observation to its chunk, below `n_action_steps`.
        send_prefix: Send the d actions that are executed during inference as ``action_prefix``:
            real-time chunking (arXiv 2506.07339).

    Raises:
        ValueError: If d is not between 0 and `n_action_steps`.
    """

    def __init__(self, *, delay: int, send_prefix: bool, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 < delay < self.n_action_steps:
            raise ValueError(
                f"delay: expected 1 to {self.n_action_steps - 1}, below n_action_steps "
                f"({self.n_action_steps}), got {delay}. A chunk must arrive before the next "
                "observation."
            )
        self.delay, self.send_prefix = delay, send_prefix
        self.changes = ActionChanges()
        self._tails: dict[int, Floats] = {}

    def _run(
        self, actor: Actor, episodes: Sequence[EvalEpisode], on_result: OnResult | None
    ) -> list[EpisodeResult]:
        self._tails = {}
        return super()._run(actor, episodes, on_result)

    def _choose_actions(self, actor: Actor, waiting: Sequence[WorkerHandle]) -> list[Floats]:
        empty = np.zeros((0, actor.spec.action_dim), np.float32)
        tails = [self._tails.get(worker.index, empty) for worker in waiting]
        chunks = choose_actions(
            actor,
            [worker.observation for worker in waiting if worker.observation is not None],
            self.n_action_steps + self.delay,
            [torch.from_numpy(tail) for tail in tails] if self.send_prefix else None,
            [worker.noise_seed for worker in waiting],
        )
        executed = []
        for worker, chunk, tail in zip(waiting, chunks, tails, strict=True):
            executed.append(np.concatenate([tail, chunk[len(tail) : self.n_action_steps]]))
            self.changes.add(executed[-1], len(tail))
            self._tails[worker.index] = chunk[self.n_action_steps :]
        return executed


class ActionChanges:
    """Differences between consecutive actions, at chunk boundaries and within chunks."""

    def __init__(self) -> None:
        self.at_boundaries: list[Floats] = []
        self.within_chunks: list[Floats] = []

    def add(self, actions: Floats, boundary: int) -> None:
        """Add actions ``(n, D)``, with a new chunk from step `boundary` on (0: none)."""
        for step, change in enumerate(np.abs(np.diff(actions, axis=0)), start=1):
            (self.at_boundaries if step == boundary else self.within_chunks).append(change)

    def means(self) -> tuple[Floats, Floats]:
        """Return the mean change at boundaries and within chunks, each ``(D + 1,)``.

        The first D values are absolute differences by dimension in robot units, the last one is
        the mean of the Euclidean norm of the differences.

        Raises:
            ValueError: If there is no boundary.
        """
        if not self.at_boundaries:
            raise ValueError(
                "n_action_steps: expected fewer steps than an episode has, got no chunk boundary. "
                "Lower n_action_steps."
            )
        both = [np.stack(each) for each in (self.at_boundaries, self.within_chunks)]
        boundary, within = (
            np.append(each.mean(axis=0), np.linalg.norm(each, axis=1).mean()) for each in both
        )
        return boundary, within


def compare_prefixes(actor: Actor, episodes: Sequence[EvalEpisode], **settings: Any) -> str:
    """Measure the jump at chunk boundaries with and without an action prefix.

    The jump is the mean change of actions at boundaries, ``|a_new[d] − a_old[last]|``, minus the
    mean change within chunks: 0 where boundaries are as smooth as other steps.

    Args:
        actor: An actor that accepts an action prefix.
        episodes: Episodes, run both ways.
        settings: Arguments of :class:`RealTimeRollouts` except ``send_prefix``.

    Returns:
        A table in Markdown, robot units.
    """
    columns, notes = [], []
    for send_prefix, name in ((False, "without prefix"), (True, "with prefix")):
        rollouts = RealTimeRollouts(send_prefix=send_prefix, **settings)
        try:
            results = rollouts.run(actor, episodes)
        finally:
            rollouts.close()
        boundary, within = rollouts.changes.means()
        columns += [within, boundary, boundary - within]
        successes = sum(result.success for result in results)
        errors = sum(bool(result.error) for result in results)
        notes.append(
            f"{name}: success {successes} of {len(results)}, "
            f"{len(rollouts.changes.at_boundaries)} boundaries"
            + (f", {errors} errors" if errors else "")
        )
    heads = [f"{name}, {column}" for name in ("without", "with") for column in COLUMNS]
    rows = [f"| dimension | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    dimensions = [*map(str, range(len(columns[0]) - 1)), "all, L2"]
    for dimension, *values in zip(dimensions, *columns, strict=True):
        rows.append(f"| {dimension} | {' | '.join(f'{value:.5f}' for value in values)} |")
    return "\n".join([*rows, *notes])
