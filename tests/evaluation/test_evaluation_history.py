"""Rollouts of policies that observe several steps."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_corridor import SPEC, Corridor, Walker

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.env_worker import EnvWorker
from e0_lightning.evaluation.rollout import choose_actions


def walk(n_obs_steps, n_action_steps, goal=9, max_steps=20):
    """Positions that are observed at each decision, and the result of the episode."""
    walker = Walker(spec=replace(SPEC, n_obs_steps=n_obs_steps))
    worker = EnvWorker(Corridor, walker.spec)
    response = worker.handle(EvalEpisode("corridor", goal, max_steps))
    observed = []
    while hasattr(response, "state"):
        observed.append([*(int(each.state[0]) for each in response.history)])
        observed[-1].append(int(response.state[0]))
        response = worker.handle(choose_actions(walker, [response], n_action_steps)[0])
    return observed, response


@pytest.mark.parametrize(
    ("n_obs_steps", "n_action_steps", "expected"),
    [
        (1, 4, [[0], [4], [8]]),
        (3, 4, [[0, 0, 0], [2, 3, 4], [6, 7, 8]]),
        (3, 2, [[0, 0, 0], [0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]),
        (3, 1, [[max(t - 2, 0), max(t - 1, 0), t] for t in range(9)]),
        (6, 4, [[0] * 6, [0, 0, 1, 2, 3, 4], [3, 4, 5, 6, 7, 8]]),
    ],
)
def test_the_observed_steps_are_consecutive(n_obs_steps, n_action_steps, expected):
    observed, result = walk(n_obs_steps, n_action_steps)
    assert observed == expected
    assert (result.success, result.steps) == (True, 9)


def test_a_new_episode_does_not_observe_the_last_one():
    spec = replace(SPEC, n_obs_steps=3)
    worker = EnvWorker(Corridor, spec)
    worker.handle(EvalEpisode("corridor", 9, 20))
    worker.handle(np.ones((3, 2), np.float32))
    again = worker.handle(EvalEpisode("corridor", 5, 20))
    assert [each.state.tolist() for each in again.history] == [[0, 5], [0, 5]]


def test_success_and_failure_within_the_observed_steps_end_the_episode():
    assert walk(3, 4, goal=3)[1].steps == 3
    failed = walk(3, 4, goal=30, max_steps=6)[1]
    assert (failed.success, failed.steps, failed.error) == (False, 6, "")


def test_the_history_of_a_batch_has_images_and_states():
    walker = Walker(spec=replace(SPEC, n_obs_steps=3))
    workers = [EnvWorker(Corridor, walker.spec) for _ in range(2)]
    for goal, worker in enumerate(workers, start=5):
        worker.handle(EvalEpisode("corridor", goal, 20))
    latest = [worker.handle(np.ones((4, 2), np.float32)) for worker in workers]
    choose_actions(walker, latest, 2)
    history = walker.observations[-1]["history"]
    assert history["images"]["front"].shape == (2, 2, 3, 4, 4)
    assert history["images"]["front"][:, :, 0, 0, 1].tolist() == [[2, 3], [2, 3]]
    assert history["state"].tolist() == [[[2, 5], [3, 5]], [[2, 6], [3, 6]]]
    walker.spec.check_observation(walker.observations[-1])
