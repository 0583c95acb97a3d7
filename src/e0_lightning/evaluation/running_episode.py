"""Progress of an episode while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from e0_lightning.envs.base import EnvObservation, EvalEpisode, StepResult
from e0_lightning.evaluation.report.video import Video
from e0_lightning.evaluation.results_store import key
from e0_lightning.random import derive_seed
from e0_lightning.types import EpisodeResult


def noise_seed(episode: EvalEpisode, steps: int) -> int:
    """Seed of the policy's noise for the observation after some steps of an episode."""
    task, seed, camera = key(episode)
    return derive_seed("episode", task, seed, str(camera), steps)


class RunningEpisode:
    """Steps, observations, video and, at its end, the result of an episode.

    A policy that observes n steps observes the environment after each of the last n actions that it
    executes at once; at the start of an episode its first observation is repeated.

    Args:
        episode: The episode.
        n_obs_steps: Control steps that the policy observes.
    """

    def __init__(self, episode: EvalEpisode, n_obs_steps: int) -> None:
        self.episode, self.n_obs_steps = episode, n_obs_steps
        self.steps = 0
        self.score: float | None = None
        self.flags: Mapping[str, bool] = {}
        self.video = None if episode.video is None else Video(Path(episode.video))
        self.observed: deque[EnvObservation] = deque(maxlen=n_obs_steps)
        self.result: EpisodeResult | None = None

    @property
    def noise_seed(self) -> int:
        """Seed of the policy's noise for the latest observation."""
        return noise_seed(self.episode, self.steps)

    def start(self, first: EnvObservation) -> None:
        """Take the first observation."""
        self.observed.extend([first] * self.n_obs_steps)

    def parts(self, num_actions: int) -> list[slice]:
        """The next of ``num_actions`` actions, cut after each step that is observed.

        They end with the episode, whose last step is not observed.
        """
        remaining = self.episode.max_steps - self.steps
        if num_actions >= remaining:
            return [slice(remaining)]
        observed = range(max(1, num_actions - self.n_obs_steps + 1), num_actions)
        return [slice(*ends) for ends in zip([0, *observed], [*observed, num_actions], strict=True)]

    def is_last(self, num_actions: int) -> bool:
        """Whether the episode ends with ``num_actions`` more actions."""
        return num_actions >= self.episode.max_steps - self.steps

    def add(self, result: StepResult) -> None:
        """Take the result of the actions of a part."""
        self.steps += result.steps
        self.score, self.flags = result.score, result.flags
        if result.observation is None:
            self.finish(result.success)
        else:
            self.observed.append(result.observation)

    def latest(self) -> EnvObservation:
        """The last observation with those before it and the instruction of the episode."""
        *past, last = self.observed
        given = self.episode.instruction
        instruction = last.instruction if given is None else given
        return replace(last, history=tuple(past), instruction=instruction)

    def finish(self, success: bool, error: str = "") -> EpisodeResult:
        """End the episode, and close its video."""
        outcome = "error" if error else "success" if success else "failure"
        video = None if self.video is None else self.video.finish(outcome)
        self.video = None
        task, seed, camera = self.episode.task, self.episode.seed, self.episode.camera
        end = (self.score, dict(self.flags))
        self.result = EpisodeResult(task, seed, success, self.steps, error, video, camera, *end)
        return self.result
