"""Parent side of a rollout worker: its process, its episode, seeds of the policy noise."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from e0_lightning.envs.base import EnvObservation, EvalEpisode, MakeEnvironment
from e0_lightning.envs.worker_process import WorkerProcess
from e0_lightning.evaluation.env_worker import Request, Response, serve
from e0_lightning.evaluation.running_episode import noise_seed
from e0_lightning.types import EpisodeResult, PolicySpec


class WorkerHandle:
    """A worker process and the episode that runs in it.

    Args:
        make_environment: Builds the environment of a task.
        spec: Spec of the actor.
    """

    index: int
    """Index of the episode among those of the run."""
    episode: EvalEpisode | None
    """The episode that runs, if any."""
    observation: EnvObservation | None
    """The observation that the actor has not acted on yet; None while the environment is busy."""

    def __init__(self, make_environment: MakeEnvironment, spec: PolicySpec) -> None:
        self._args = (make_environment, spec)
        self.process = WorkerProcess(serve, *self._args)
        self.index, self.episode, self.observation = 0, None, None
        self._steps = self._requested = 0

    @property
    def is_busy(self) -> bool:
        """Whether a response is pending."""
        return self.episode is not None and self.observation is None

    @property
    def noise_seed(self) -> int:
        """Seed of the policy's noise for the current observation."""
        assert self.episode is not None
        return noise_seed(self.episode, self._steps)

    def start(self, index: int, episode: EvalEpisode) -> None:
        """Start an episode."""
        self.index, self.episode = index, episode
        self._steps = 0
        self._send(episode, 0)

    def execute(self, actions: NDArray[np.float32]) -> None:
        """Execute actions, ``(n, D)``."""
        self._send(actions, len(actions))

    def receive(self) -> Response:
        """Receive the response that is pending; a failed result if the process died."""
        try:
            response: Response = self.process.connection.recv()
        except (EOFError, OSError):
            self.process.process.join()
            return self.fail(f"its process died (exit status {self.process.process.exitcode})")
        self._steps += self._requested
        return response

    def fail(self, error: str) -> EpisodeResult:
        """Result of the current episode for an error outside of its environment."""
        assert self.episode is not None
        task, seed, camera = self.episode.task, self.episode.seed, self.episode.camera
        return EpisodeResult(task, seed, False, self._steps, error, camera=camera)

    def restart(self) -> None:
        """Replace the process by a new one."""
        self.process.end()
        self.process = WorkerProcess(serve, *self._args)

    def _send(self, request: Request, steps: int) -> None:
        self._requested, self.observation = steps, None
        # If the process has died meanwhile, `receive` reports it.
        with suppress(OSError):
            self.process.connection.send(request)
