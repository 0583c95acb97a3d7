"""The worker's side of a rollout: one environment, playing one episode after another."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Why no environment of a task can serve an actor of this spec."""

    reason: str


Request = EvalEpisode | NDArray[np.float32]
"""An episode to begin, or the actions to go on with, ``(n, D)``."""

Answer = EnvObservation | EpisodeResult | Unsupported
"""What is seen now, how the episode ended, or that it cannot be played."""


class EnvWorker:
    """Answers requests; keeps its environment as long as the task stays the same.

    Args:
        make_environment: Builds the environment of a task.
        spec: What the actor must be shown.
    """

    def __init__(self, make_environment: MakeEnvironment, spec: PolicySpec) -> None:
        self.make_environment, self.spec = make_environment, spec
        self.environment: Environment | None = None
        self.episode = EvalEpisode("", 0, 0)
        self.steps = 0
        self.video: Video | None = None

    def answer(self, request: Request) -> Answer:
        """Begin an episode or go on with it; whatever goes wrong ends it with an error."""
        try:
            if isinstance(request, EvalEpisode):
                return self._begin(request)
            return self._go_on(request)
        except Exception as error:  # a simulator may raise anything
            return self._end(False, f"{type(error).__name__}: {error}")

    def _begin(self, episode: EvalEpisode) -> EnvObservation | Unsupported:
        task, self.episode, self.steps = self.episode.task, episode, 0
        if self.environment is None or task != episode.task:
            # Referred to until the next one stands: shaders, which take seconds to compile, live
            # as long as any environment does.
            previous, self.environment = self.environment, None
            if previous is not None:
                previous.close()
            try:
                self.environment = self.make_environment(episode.task, self.spec)
            except (ValueError, ModuleNotFoundError) as error:
                return Unsupported(str(error))
        self.video = None if episode.video is None else Video(Path(episode.video))
        try:
            return self.environment.reset(episode.seed, episode.camera)
        except CameraError as error:
            return Unsupported(f"{episode.task}: {error}")

    def _go_on(self, actions: NDArray[np.float32]) -> EnvObservation | EpisodeResult:
        assert self.environment is not None
        left = self.episode.max_steps - self.steps
        outcome = self.environment.run(
            actions[:left],
            last=len(actions) >= left,
            on_frame=None if self.video is None else self.video.add,
        )
        self.steps += outcome.steps
        return self._end(outcome.success) if outcome.view is None else outcome.view

    def _end(self, success: bool, error: str = "") -> EpisodeResult:
        outcome = "error" if error else "success" if success else "failure"
        video = None if self.video is None else self.video.finish(outcome)
        self.video = None
        task, seed, camera = self.episode.task, self.episode.seed, self.episode.camera
        return EpisodeResult(task, seed, success, self.steps, error, video, camera)


def serve(connection: Connection, make_environment: MakeEnvironment, spec: PolicySpec) -> None:
    """Answer requests until the pipe closes; the loop of a worker process."""
    stage = EnvWorker(make_environment, spec)
    while True:
        connection.send(stage.answer(connection.recv()))
