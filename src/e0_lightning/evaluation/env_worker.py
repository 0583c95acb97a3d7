"""Worker side of a rollout: one environment that runs one episode after another."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from e0_lightning.envs.base import Environment, EnvObservation, EvalEpisode, MakeEnvironment
from e0_lightning.envs.camera_orbit import CameraError
from e0_lightning.evaluation.running_episode import RunningEpisode
from e0_lightning.types import EpisodeResult, PolicySpec


@dataclass(frozen=True)
class Unsupported:
    """Reason why no environment of a task supports the spec of the actor."""

    reason: str


Request = EvalEpisode | NDArray[np.float32]
"""An episode to start, or the next actions to execute, ``(n, D)``."""

Response = EnvObservation | EpisodeResult | Unsupported
"""The new observation, the result of a finished episode, or why it cannot run."""


class EnvWorker:
    """Handles requests; keeps its environment as long as the task stays the same.

    Args:
        make_environment: Builds the environment of a task.
        spec: Spec of the actor.
    """

    def __init__(self, make_environment: MakeEnvironment, spec: PolicySpec) -> None:
        self.make_environment, self.spec = make_environment, spec
        self.environment: Environment | None = None
        self.running = RunningEpisode(EvalEpisode("", 0, 0), spec.n_obs_steps)

    def handle(self, request: Request) -> Response:
        """Start an episode or continue it; any exception ends it with an error."""
        try:
            if isinstance(request, EvalEpisode):
                return self._start(request)
            return self._execute(request)
        except Exception as error:  # simulators raise exceptions of any type
            return self.running.finish(False, f"{type(error).__name__}: {error}")

    def _start(self, episode: EvalEpisode) -> EnvObservation | Unsupported:
        task = self.running.episode.task
        self.running = RunningEpisode(episode, self.spec.n_obs_steps)
        if self.environment is None or task != episode.task:
            # The reference is kept until the next environment exists: compiled shaders, which take
            # seconds to compile, are freed with the last environment.
            previous, self.environment = self.environment, None
            if previous is not None:
                previous.close()
            try:
                self.environment = self.make_environment(episode.task, self.spec)
            except (ValueError, ModuleNotFoundError) as error:
                return Unsupported(str(error))
        try:
            first = self.environment.reset(episode.seed, episode.camera)
        except CameraError as error:
            return Unsupported(f"{episode.task}: {error}")
        self.running.start(first)
        return self.running.latest()

    def _execute(self, actions: NDArray[np.float32]) -> EnvObservation | EpisodeResult:
        assert self.environment is not None
        running, is_last = self.running, self.running.is_last(len(actions))
        for part in running.parts(len(actions)):
            on_frame = None if running.video is None else running.video.add
            running.add(self.environment.run(actions[part], last=is_last, on_frame=on_frame))
            if running.result is not None:
                return running.result
        return running.latest()


def serve(connection: Connection, make_environment: MakeEnvironment, spec: PolicySpec) -> None:
    """Handle requests until the pipe closes; the main loop of a worker process."""
    worker = EnvWorker(make_environment, spec)
    while True:
        connection.send(worker.handle(connection.recv()))
