"""Robots that do not stop to think, and how their motion jumps from chunk to chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e0_lightning.envs.base import EnvObservation, EvalEpisode
from e0_lightning.evaluation.rollout import Rollouts, choose
from e0_lightning.types import Actor, EpisodeResult

Floats = NDArray[np.float32]


class RealTimeRollouts(Rollouts):
    """Rollouts where a chunk arrives some steps after the view that it was chosen for.

    Every `n_action_steps` steps the world is shown to the actor. While it chooses, the robot goes on with
    the next `delay` actions of its last chunk; of the new one, as many first actions are out of
    date by then and are left out. The world stands still only before an episode's first chunk.

    Args:
        settings: What every `Rollouts` takes, by name.
        delay: Steps d from a view to the chunk for it, below `n_action_steps`.
        send_prefix: Tell the actor the d actions that are carried out meanwhile, for its chunk to
            begin with: real-time chunking (arXiv 2506.07339).

    Raises:
        ValueError: If d is not between 0 and `n_action_steps`.
    """

    def __init__(self, *, delay: int, send_prefix: bool, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 < delay < self.n_action_steps:
            raise ValueError(
                f"delay is {delay} and n_action_steps is {self.n_action_steps}; a delay of 1 step or more, and "
                "below n_action_steps, is wanted: a chunk must arrive before the next is asked for"
            )
        self.delay, self.send_prefix = delay, send_prefix
        self.changes = Changes()
        self._tails: dict[int, Floats] = {}

    def _play(self, actor: Actor, episodes: Sequence[EvalEpisode]) -> list[EpisodeResult]:
        self._tails = {}
        return super()._play(actor, episodes)

    def _decide(self, actor: Actor, shown: dict[int, EnvObservation]) -> list[Floats]:
        none = np.zeros((0, actor.spec.action_dim), np.float32)
        tails = [self._tails.get(number, none) for number in shown]
        action_prefix = [torch.from_numpy(tail) for tail in tails] if self.send_prefix else None
        chunks = choose(
            actor, list(shown.values()), self.n_action_steps + self.delay, action_prefix
        )
        carried = []
        for number, chunk, tail in zip(shown, chunks, tails, strict=True):
            carried.append(np.concatenate([tail, chunk[len(tail) : self.n_action_steps]]))
            self.changes.add(carried[-1], len(tail))
            self._tails[number] = chunk[self.n_action_steps :]
        return carried


class Changes:
    """How much actions change from a step to the next: from chunk to chunk, and within one."""

    def __init__(self) -> None:
        self.seams: list[Floats] = []
        self.inner: list[Floats] = []

    def add(self, actions: Floats, seam: int) -> None:
        """Take actions in a row, ``(n, D)``, a new chunk's from step `seam` on; 0 is no seam."""
        changes = np.abs(np.diff(actions, axis=0))
        for step, change in enumerate(changes, start=1):
            (self.seams if step == seam else self.inner).append(change)

    def means(self) -> tuple[Floats, Floats]:
        """Mean change at a seam and within a chunk, each ``(D + 1,)``: by dimension, and overall.

        A dimension's is an absolute difference in robot units; the last number is the mean of the
        differences' Euclidean length.

        Raises:
            ValueError: If no chunk followed another.
        """
        if not self.seams:
            raise ValueError(
                "no chunk followed another: every episode was over within `n_action_steps` steps; lower it"
            )
        both = [np.stack(each) for each in (self.seams, self.inner)]
        seam, inner = (
            np.append(each.mean(axis=0), np.linalg.norm(each, axis=1).mean()) for each in both
        )
        return seam, inner


def benchmark(actor: Actor, episodes: Sequence[EvalEpisode], **settings: Any) -> str:
    """Measure the jump at seams with and without real-time chunking, on the same episodes.

    The jump is the mean change of the actions at a seam, ``|a_new[d] − a_old[last]|``, less that
    of neighbouring actions of one chunk: 0 where seams cannot be told from any other step.

    Args:
        actor: Who acts; one that cannot continue action_prefix actions refuses.
        episodes: What is played.
        settings: Of `RealTimeRollouts`, without `send_prefix`.

    Returns:
        A table in Markdown, in robot units.
    """
    columns, notes = [], []
    for send_prefix, name in ((False, "plain"), (True, "real-time")):
        torch.manual_seed(0)
        rollouts = RealTimeRollouts(send_prefix=send_prefix, **settings)
        try:
            results = rollouts.play(actor, episodes)
        finally:
            rollouts.close()
        seam, inner = rollouts.changes.means()
        columns += [inner, seam, seam - inner]
        successes = sum(result.success for result in results)
        errors = sum(bool(result.error) for result in results)
        notes.append(
            f"{name}: success {successes} of {len(results)}, {len(rollouts.changes.seams)} seams"
            + (f", {errors} errors" if errors else "")
        )
    head = [f"{name}, {what}" for name in ("plain", "real-time") for what in _MEASURED]
    rows = [f"| dimension | {' | '.join(head)} |", "| --- |" + " --- |" * len(head)]
    names = [*map(str, range(len(columns[0]) - 1)), "all, L2"]
    for name, *values in zip(names, *columns, strict=True):
        rows.append(f"| {name} | {' | '.join(f'{value:.5f}' for value in values)} |")
    return "\n".join([*rows, *notes])


_MEASURED = ("within a chunk", "at a seam", "jump")
