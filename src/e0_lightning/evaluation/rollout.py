"""Closed-loop rollouts: environments step in worker processes, the actor acts on a batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e0_lightning.envs.base import EnvObservation, EvalEpisode, MakeEnvironment
from e0_lightning.evaluation.env_worker import Response, Unsupported
from e0_lightning.evaluation.results_store import Key, key
from e0_lightning.evaluation.worker_handle import WorkerHandle
from e0_lightning.types import Actor, EpisodeResult, History, Observation, PolicySpec

OnResult = Callable[[EpisodeResult], None]
"""Called with the result of each episode as soon as it ends."""


class EpisodeRunner(Protocol):
    """Runs episodes with an actor."""

    def run(
        self, actor: Actor, episodes: Sequence[EvalEpisode], on_result: OnResult | None = None
    ) -> list[EpisodeResult]:
        """Run every episode to its end, and return their results in order."""
        ...

    def close(self) -> None:
        """Free the environments."""
        ...


class Rollouts:
    """Runs episodes in worker processes that each keep one environment.

    All environments that wait for actions are batched for the actor, and each executes the first
    steps of its chunk. Environments advance in lock-step, so that batches depend on the episodes
    and not on timing. Every observation has a ``noise_seed`` of its episode and step, so that the
    result of an episode does not depend on its batch. A crashed or hung environment fails only its
    own episode and is restarted.

    Args:
        make_environment: Builds the environment of a task for a spec.
        num_envs: Worker processes, hence the largest batch of the actor.
        n_action_steps: Steps of a chunk that are executed before the actor acts again.
        timeout: Seconds until an environment counts as hung; its first response includes the
            loading of the simulator.

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
                raise ValueError(f"{name}: expected a positive number, got {value}.")
        self.make_environment, self.num_envs = make_environment, num_envs
        self.n_action_steps, self.timeout = n_action_steps, timeout
        self._spec: PolicySpec | None = None
        self._workers: list[WorkerHandle] = []

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the processes: a copy starts its own."""
        return {**self.__dict__, "_spec": None, "_workers": []}

    def run(
        self, actor: Actor, episodes: Sequence[EvalEpisode], on_result: OnResult | None = None
    ) -> list[EpisodeResult]:
        """Run every episode to its end.

        Args:
            actor: Chooses the actions.
            episodes: The episodes.
            on_result: Called with each result as soon as the episode ends, in any order.

        Returns:
            One result for each episode, in order.

        Raises:
            ValueError: If an environment does not support the actor's spec, or the actions do not
                match it.
        """
        if actor.spec != self._spec:
            self.close()
            self._spec = actor.spec
        while len(self._workers) < min(self.num_envs, len(episodes)):
            self._workers.append(WorkerHandle(self.make_environment, actor.spec))
        try:
            return self._run(actor, episodes, on_result)
        except BaseException:
            self.close()  # the workers are in the middle of episodes
            raise

    def close(self) -> None:
        """End the worker processes."""
        for worker in self._workers:
            worker.process.end()
        self._workers = []

    def _run(
        self, actor: Actor, episodes: Sequence[EvalEpisode], on_result: OnResult | None
    ) -> list[EpisodeResult]:
        pending = deque(enumerate(episodes))
        results: dict[int, EpisodeResult] = {}
        while len(results) < len(episodes):
            waiting = [worker for worker in self._workers if worker.observation is not None]
            if waiting:
                chosen = self._choose_actions(actor, waiting)
                for worker, actions in zip(waiting, chosen, strict=True):
                    worker.execute(actions)
            for worker in self._workers:
                if worker.episode is None and pending:
                    worker.start(*pending.popleft())
            for worker, response in self._receive():
                if isinstance(response, Unsupported):
                    raise ValueError(response.reason)
                if isinstance(response, EnvObservation):
                    worker.observation = response
                    continue
                results[worker.index] = response
                worker.episode = None
                if on_result is not None:
                    on_result(response)
                if response.error:
                    worker.restart()
        return [results[index] for index in range(len(episodes))]

    def _choose_actions(
        self, actor: Actor, waiting: Sequence[WorkerHandle]
    ) -> list[NDArray[np.float32]]:
        """Actions to execute next, ``(n, D)``, for each worker that waits."""
        observations = [worker.observation for worker in waiting if worker.observation is not None]
        seeds = [worker.noise_seed for worker in waiting]
        return list(choose_actions(actor, observations, self.n_action_steps, noise_seed=seeds))

    def _receive(self) -> list[tuple[WorkerHandle, Response]]:
        """Wait for all busy workers; one that dies or hangs fails its episode."""
        deadline = time.monotonic() + self.timeout
        responses: dict[int, Response] = {}
        busy = {id(worker): worker for worker in self._workers if worker.is_busy}
        while silent := [worker for key, worker in busy.items() if key not in responses]:
            connections = [worker.process.connection for worker in silent]
            ready = wait(connections, deadline - time.monotonic())
            for worker in silent:
                if worker.process.connection in ready:
                    responses[id(worker)] = worker.receive()
                elif not ready:
                    responses[id(worker)] = worker.fail(f"no response within {self.timeout:g} s")
        return [(worker, responses[key]) for key, worker in busy.items()]


class RolloutBatch:
    """Episodes that run together; one item of a data loader.

    Args:
        rollouts: Runs the episodes.
        episodes: The episodes.
        metadata: Settings of the evaluation for its report: plain values.
    """

    def __init__(
        self, rollouts: EpisodeRunner, episodes: Sequence[EvalEpisode], metadata: dict[str, Any]
    ) -> None:
        self.rollouts, self.episodes, self.metadata = rollouts, tuple(episodes), metadata
        self.finished: dict[Key, EpisodeResult] = {}
        """Results of an earlier run, whose episodes are skipped."""
        self.on_result: OnResult | None = None
        """Called with each new result as soon as its episode ends."""

    def run(self, actor: Actor) -> list[EpisodeResult]:
        """Run the episodes that are not finished; returns the results of all, in order."""
        remaining = [episode for episode in self.episodes if key(episode) not in self.finished]
        new = self.rollouts.run(actor, remaining, self.on_result) if remaining else []
        results = {**self.finished, **{key(result): result for result in new}}
        return [results[key(episode)] for episode in self.episodes]


def collate(observations: Sequence[EnvObservation]) -> Observation:
    """Batch the observations of B environments, as tensors on the CPU."""
    first = observations[0]
    images = {
        name: torch.from_numpy(np.stack([each.images[name] for each in observations]))
        for name in first.images
    }
    intrinsics = {
        name: torch.from_numpy(np.stack([each.intrinsics[name] for each in observations]))
        for name in first.intrinsics
    }
    batch: Observation = {
        "images": {name: rgb.permute(0, 3, 1, 2).contiguous() for name, rgb in images.items()},
        "instruction": [each.instruction for each in observations],
        "state": torch.from_numpy(np.stack([each.state for each in observations])),
        "intrinsics": intrinsics,
    }
    if first.history:
        past = [collate(each.history) for each in observations]
        batch["history"] = History(
            images={name: torch.stack([each["images"][name] for each in past]) for name in images},
            state=torch.stack([each["state"] for each in past]),
        )
    return batch


def choose_actions(
    actor: Actor,
    observations: Sequence[EnvObservation],
    n_action_steps: int,
    action_prefix: list[Tensor] | None = None,
    noise_seed: list[int] | None = None,
) -> NDArray[np.float32]:
    """Let the actor act on B observations and return the steps to execute.

    Args:
        actor: Chooses the action chunks.
        observations: B observations.
        n_action_steps: Steps of each chunk to return.
        action_prefix: As in `Observation`.
        noise_seed: As in `Observation`.

    Returns:
        ``(B, n_action_steps, D)``, robot units.

    Raises:
        ValueError: If the actions have another shape or are not finite.
    """
    batch = collate(observations)
    if action_prefix is not None:
        batch["action_prefix"] = action_prefix
    if noise_seed is not None:
        batch["noise_seed"] = noise_seed
    actions = actor.act(batch).detach().float().cpu().numpy()
    rows, dims = len(observations), actor.spec.action_dim
    if actions.ndim != 3 or (actions.shape[0], actions.shape[2]) != (rows, dims):
        raise ValueError(
            f"expected actions of shape ({rows}, horizon, {dims}), got {actions.shape} from the "
            "actor."
        )
    if actions.shape[1] < n_action_steps:
        raise ValueError(
            f"n_action_steps: expected at most the {actions.shape[1]} steps of the actor's chunk, "
            f"got {n_action_steps}."
        )
    if not np.isfinite(actions).all():
        raise ValueError(
            "expected finite actions, got NaN or infinity from the actor. Check whether its "
            "training diverged."
        )
    executed: NDArray[np.float32] = actions[:, :n_action_steps]
    return executed
