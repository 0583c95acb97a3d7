"""Closed-loop episodes: environments step in worker processes, an actor acts on all at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e0_lightning.envs.base import EnvObservation, EvalEpisode, MakeEnvironment
from e0_lightning.envs.worker_process import WorkerProcess
from e0_lightning.evaluation.env_worker import Answer, Request, Unsupported, serve
from e0_lightning.evaluation.results_store import Key, key
from e0_lightning.types import Actor, EpisodeResult, Observation, PolicySpec


class Rollouts:
    """Plays episodes in processes that each keep one environment.

    All environments that wait for actions are shown to the actor together, and each carries out
    the first steps of its chunk. The rounds are in lock-step, so that what is batched with what
    depends on the episodes alone, not on timing. An environment that raises, hangs or dies costs
    its episode: a result with an error, and a fresh process for the next.

    Args:
        make_environment: Builds the environment of a task for a spec.
        num_envs: Processes, hence the largest batch that the actor sees.
        n_action_steps: Steps of a chunk that are carried out before the actor is asked again.
        timeout: Seconds an environment may take to answer; the first time it loads the simulator.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        make_environment: MakeEnvironment,
        num_envs: int,
        n_action_steps: int,
        timeout: float = 300.0,
    ) -> None:
        for name, value in {
            "num_envs": num_envs,
            "n_action_steps": n_action_steps,
            "timeout": timeout,
        }.items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; a positive number is wanted")
        self.make_environment, self.num_envs = make_environment, num_envs
        self.n_action_steps, self.timeout = n_action_steps, timeout
        self._spec: PolicySpec | None = None
        self._seats: list[WorkerHandle] = []

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the processes: a copy starts its own."""
        return {**self.__dict__, "_spec": None, "_seats": []}

    def play(self, actor: Actor, episodes: Sequence[EvalEpisode]) -> list[EpisodeResult]:
        """Play every episode to its end.

        Returns:
            One result for each episode, in order.

        Raises:
            ValueError: If an environment cannot keep the actor's spec, or the actions break it.
        """
        if actor.spec != self._spec:
            self.close()
            self._spec = actor.spec
        while len(self._seats) < min(self.num_envs, len(episodes)):
            self._seats.append(WorkerHandle(self.make_environment, actor.spec))
        try:
            return self._play(actor, episodes)
        except BaseException:
            self.close()  # episodes are under way in there
            raise

    def close(self) -> None:
        """End the processes."""
        for seat in self._seats:
            seat.worker.end()
        self._seats = []

    def _play(self, actor: Actor, episodes: Sequence[EvalEpisode]) -> list[EpisodeResult]:
        pending = deque(enumerate(episodes))
        results: dict[int, EpisodeResult] = {}
        while len(results) < len(episodes):
            shown = [(seat, seat.view) for seat in self._seats if seat.view is not None]
            if shown:
                carried = self._decide(actor, {seat.index: view for seat, view in shown})
                for (seat, _), actions in zip(shown, carried, strict=True):
                    seat.ask(actions)
            for seat in self._seats:
                if seat.episode is None and pending:
                    seat.index, seat.episode = pending.popleft()
                    seat.ask(seat.episode)
            for seat, answer in self._answers():
                if isinstance(answer, Unsupported):
                    raise ValueError(answer.reason)
                if isinstance(answer, EpisodeResult):
                    results[seat.index] = answer
                    seat.episode = None
                    if answer.error:
                        seat.restart()
                else:
                    seat.view = answer
        return [results[index] for index in range(len(episodes))]

    def _decide(self, actor: Actor, shown: dict[int, EnvObservation]) -> list[NDArray[np.float32]]:
        """What is carried out next, ``(n, D)``, in each episode that waits, by its number."""
        return list(choose(actor, list(shown.values()), self.n_action_steps))

    def _answers(self) -> list[tuple[WorkerHandle, Answer]]:
        """Wait for everyone who was asked; who dies or stays silent has lost the episode."""
        deadline = time.monotonic() + self.timeout
        answers: dict[int, Answer] = {}
        asked = {id(seat): seat for seat in self._seats if seat.episode and seat.view is None}
        while silent := [seat for key, seat in asked.items() if key not in answers]:
            ready = wait([s.worker.connection for s in silent], deadline - time.monotonic())
            for seat in silent:
                if seat.worker.connection in ready:
                    answers[id(seat)] = seat.answer()
                elif not ready:
                    answers[id(seat)] = seat.lose(f"no answer within {self.timeout:g} s")
        return [(seat, answers[key]) for key, seat in asked.items()]


class WorkerHandle:
    """A worker process and the episode that is being played in it."""

    def __init__(self, make_environment: MakeEnvironment, spec: PolicySpec) -> None:
        self._args = (make_environment, spec)
        self.worker = WorkerProcess(serve, *self._args)
        self.index = 0
        self.episode: EvalEpisode | None = None
        self.view: EnvObservation | None = None
        self._steps = self._asked = 0

    def ask(self, request: Request) -> None:
        if isinstance(request, EvalEpisode):
            self._steps, self._asked = 0, 0
        else:
            self._asked = len(request)
        self.view = None
        # It may have died while the actor was thinking; then its answer will say so.
        with suppress(OSError):
            self.worker.connection.send(request)

    def answer(self) -> Answer:
        try:
            answer: Answer = self.worker.connection.recv()
        except (EOFError, OSError):
            self.worker.process.join()
            return self.lose(f"its process died (exit status {self.worker.process.exitcode})")
        self._steps += self._asked
        return answer

    def lose(self, error: str) -> EpisodeResult:
        assert self.episode is not None
        task, seed, camera = self.episode.task, self.episode.seed, self.episode.camera
        return EpisodeResult(task, seed, False, self._steps, error, camera=camera)

    def restart(self) -> None:
        self.worker.end()
        self.worker = WorkerProcess(serve, *self._args)


class RolloutBatch:
    """Episodes to play together, an item of a data loader.

    Args:
        rollouts: Where they are played.
        episodes: The episodes.
        about: What a report should say of them: plain values.
    """

    def __init__(
        self, rollouts: Rollouts, episodes: Sequence[EvalEpisode], about: dict[str, Any]
    ) -> None:
        self.rollouts, self.episodes, self.about = rollouts, tuple(episodes), about
        self.finished: dict[Key, EpisodeResult] = {}
        """Episodes that were played before and need not be again."""

    def run(self, actor: Actor) -> list[EpisodeResult]:
        """Play every episode to its end and return one result for each, in order."""
        left = [episode for episode in self.episodes if key(episode) not in self.finished]
        played = zip(left, self.rollouts.play(actor, left) if left else [], strict=True)
        results = {**self.finished, **{key(episode): result for episode, result in played}}
        return [results[key(episode)] for episode in self.episodes]


def collate(views: Sequence[EnvObservation]) -> Observation:
    """Lay the views of B environments together, as tensors on the CPU."""
    images = {
        name: torch.from_numpy(np.stack([view.images[name] for view in views])).permute(0, 3, 1, 2)
        for name in views[0].images
    }
    intrinsics = {
        name: torch.from_numpy(np.stack([view.intrinsics[name] for view in views]))
        for name in views[0].intrinsics
    }
    return {
        "images": {name: pixels.contiguous() for name, pixels in images.items()},
        "instruction": [view.instruction for view in views],
        "state": torch.from_numpy(np.stack([view.state for view in views])),
        "intrinsics": intrinsics,
    }


def choose(
    actor: Actor,
    views: Sequence[EnvObservation],
    n_action_steps: int,
    action_prefix: list[Tensor] | None = None,
) -> NDArray[np.float32]:
    """Let the actor act on B views and keep the steps to carry out, ``(B, n_action_steps, D)``.

    Args:
        actor: Who acts.
        views: What it is shown.
        n_action_steps: Steps to keep.
        action_prefix: First actions of each chunk that are decided already, as an `Observation` has
            them; None where none are.

    Raises:
        ValueError: If its actions have another shape or are not finite.
    """
    observation = collate(views)
    if action_prefix is not None:
        observation["action_prefix"] = action_prefix
    actions = actor.act(observation).detach().float().cpu().numpy()
    wanted = (len(views), actor.spec.action_dim)
    if actions.ndim != 3 or (actions.shape[0], actions.shape[2]) != wanted:
        raise ValueError(
            f"the actor returned actions of shape {actions.shape}; "
            f"({wanted[0]}, horizon, {wanted[1]}) is wanted"
        )
    if actions.shape[1] < n_action_steps:
        raise ValueError(
            f"the actor returned {actions.shape[1]} steps and n_action_steps is {n_action_steps}; "
            "n_action_steps at least once per chunk"
        )
    if not np.isfinite(actions).all():
        raise ValueError("the actor returned actions that are not finite; its training diverged?")
    kept: NDArray[np.float32] = actions[:, :n_action_steps]
    return kept
