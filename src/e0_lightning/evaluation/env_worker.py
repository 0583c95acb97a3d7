"""Worker side of a rollout: one environment that runs one episode after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e0_lightning.envs.base import Environment, EnvObservation, EvalEpisode, MakeEnvironment
from e0_lightning.envs.camera_orbit import CameraError
from e0_lightning.evaluation.report.video import Video
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

    For a policy that observes n steps, the environment is observed after each of the last n actions
    of a request; at the start of an episode its first observation is repeated.

    Args:
        make_environment: Builds the environment of a task.
        spec: Spec of the actor.
    """

    def __init__(self, make_environment: MakeEnvironment, spec: PolicySpec) -> None:
        self.make_environment, self.spec = make_environment, spec
        self.environment: Environment | None = None
        self.episode = EvalEpisode("", 0, 0)
        self.steps = 0
        self.score: float | None = None
        self.flags: Mapping[str, bool] = {}
        self.video: Video | None = None
        self.observed: deque[EnvObservation] = deque(maxlen=spec.n_obs_steps)

    def handle(self, request: Request) -> Response:
        """Start an episode or continue it; any exception ends it with an error."""
        try:
            if isinstance(request, EvalEpisode):
                return self._start(request)
            return self._execute(request)
        except Exception as error:  # simulators raise exceptions of any type
            return self._finish(False, f"{type(error).__name__}: {error}")

    def _start(self, episode: EvalEpisode) -> EnvObservation | Unsupported:
        task, self.episode, self.steps = self.episode.task, episode, 0
        self.score, self.flags = None, {}
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
        self.video = None if episode.video is None else Video(Path(episode.video))
        try:
            first = self.environment.reset(episode.seed, episode.camera)
        except CameraError as error:
            return Unsupported(f"{episode.task}: {error}")
        self.observed.extend([first] * self.spec.n_obs_steps)
        return self._latest()

    def _execute(self, actions: NDArray[np.float32]) -> EnvObservation | EpisodeResult:
        assert self.environment is not None
        remaining = self.episode.max_steps - self.steps
        is_last = len(actions) >= remaining
        for part in [actions[:remaining]] if is_last else self._parts(actions):
            result = self.environment.run(
                part, last=is_last, on_frame=None if self.video is None else self.video.add
            )
            self.steps += result.steps
            self.score, self.flags = result.score, result.flags
            if result.observation is None:
                return self._finish(result.success)
            self.observed.append(result.observation)
        return self._latest()

    def _parts(self, actions: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Actions, cut after each step that is observed."""
        observed = range(max(1, len(actions) - self.spec.n_obs_steps + 1), len(actions))
        return np.split(actions, list(observed))

    def _latest(self) -> EnvObservation:
        """The last observation with those before it and the instruction of the episode."""
        *past, last = self.observed
        given = self.episode.instruction
        instruction = last.instruction if given is None else given
        return replace(last, history=tuple(past), instruction=instruction)

    def _finish(self, success: bool, error: str = "") -> EpisodeResult:
        outcome = "error" if error else "success" if success else "failure"
        video = None if self.video is None else self.video.finish(outcome)
        self.video = None
        task, seed, camera = self.episode.task, self.episode.seed, self.episode.camera
        end = (self.score, dict(self.flags))
        return EpisodeResult(task, seed, success, self.steps, error, video, camera, *end)


def serve(connection: Connection, make_environment: MakeEnvironment, spec: PolicySpec) -> None:
    """Handle requests until the pipe closes; the main loop of a worker process."""
    worker = EnvWorker(make_environment, spec)
    while True:
        connection.send(worker.handle(connection.recv()))
