"""Closed-loop rollouts in environments that a simulator steps as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.envs.base import EnvironmentBatch, EvalEpisode, MakeEnvironmentBatch
from e0_lightning.evaluation.rollout import OnResult, choose_actions
from e0_lightning.evaluation.running_episode import RunningEpisode
from e0_lightning.types import Actor, EpisodeResult, PolicySpec


class BatchedRollouts:
    """Runs episodes in groups of n, whose environments step together in the actor's process.

    The actor acts on the observations of all running episodes of a group at once. An episode that
    has ended waits for the others. Noise seeds are those of `Rollouts`, so that an episode has the
    same result there if the simulators agree. An exception of the simulator ends the evaluation,
    since after an error of CUDA no device is left to go on with; it resumes as any other.

    Args:
        make_environments: Builds n environments of a task for a spec.
        num_envs: Environments n.
        n_action_steps: Steps of a chunk that are executed before the actor acts again.
    """

    def __init__(
        self, make_environments: MakeEnvironmentBatch, num_envs: int, n_action_steps: int
    ) -> None:
        self.make_environments = make_environments
        self.num_envs, self.n_action_steps = num_envs, n_action_steps
        self._built_for: tuple[str, PolicySpec] | None = None
        self._environments: EnvironmentBatch | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the environments: a copy builds its own."""
        return {**self.__dict__, "_built_for": None, "_environments": None}

    def run(
        self, actor: Actor, episodes: Sequence[EvalEpisode], on_result: OnResult | None = None
    ) -> list[EpisodeResult]:
        """Run every episode to its end; arguments and results as those of `Rollouts.run`.

        Raises:
            ValueError: If a task does not support the actor's spec, the actions do not match it, or
                an episode displaces the cameras.
        """
        running = [RunningEpisode(episode, actor.spec.n_obs_steps) for episode in episodes]
        kinds: dict[tuple[str, int], list[RunningEpisode]] = {}
        for each in running:
            if any(each.episode.camera):
                raise ValueError(
                    "camera_offset: expected no displacement of the cameras of environments that "
                    f"step as a batch, got {each.episode.camera}. Leave it out, or set backend to "
                    "cpu."
                )
            kinds.setdefault((each.episode.task, each.episode.max_steps), []).append(each)
        for (task, _), alike in kinds.items():
            environments = self._build(task, actor.spec)
            for start in range(0, len(alike), self.num_envs):
                group = alike[start : start + self.num_envs]
                self._run(actor, environments, group, on_result)
        return [each.result for each in running if each.result is not None]

    def close(self) -> None:
        """Free the environments."""
        if self._environments is not None:
            self._environments.close()
        self._environments = self._built_for = None

    def _build(self, task: str, spec: PolicySpec) -> EnvironmentBatch:
        if self._environments is None or self._built_for != (task, spec):
            self.close()
            self._environments = self.make_environments(task, spec, self.num_envs)
            self._built_for = (task, spec)
        return self._environments

    def _run(
        self,
        actor: Actor,
        environments: EnvironmentBatch,
        group: Sequence[RunningEpisode],
        on_result: OnResult | None,
    ) -> None:
        """Run up to n episodes; what the other environments do is not reported."""
        seeds = [each.episode.seed for each in group]
        first = environments.reset(seeds + seeds[-1:] * (self.num_envs - len(seeds)))
        for each, observation in zip(group, first, strict=False):
            each.start(observation)
        actions: NDArray[np.float32] | None = None
        while rows := [row for row, each in enumerate(group) if each.result is None]:
            active = [group[row] for row in rows]
            chosen = choose_actions(
                actor,
                [each.latest() for each in active],
                self.n_action_steps,
                noise_seed=[each.noise_seed for each in active],
            )
            if actions is None:
                actions = np.repeat(chosen[-1:], self.num_envs, axis=0)
            actions[rows] = chosen
            is_last = active[0].is_last(self.n_action_steps)
            # All of a group have taken the same number of steps.
            for part in active[0].parts(self.n_action_steps):
                videos = [each.video for each in group] + [None] * (self.num_envs - len(group))
                on_frames = [None if video is None else video.add for video in videos]
                results = environments.run(actions[:, part], is_last, on_frames)
                for row in rows:
                    if group[row].result is None:
                        group[row].add(results[row])
                        if on_result is not None and (result := group[row].result) is not None:
                            on_result(result)
