import re

import numpy as np
import pytest
import torch

from e0_lightning.benchmarks.chunk_boundary import (
    ActionChanges,
    RealTimeRollouts,
    compare_prefixes,
)
from e0_lightning.envs.base import EnvObservation, EvalEpisode, StepResult
from e0_lightning.types import PolicySpec

SPEC = PolicySpec({}, {"place": 1}, action_dim=2, control_mode="walk", horizon=6)


class EndlessEnvironment:
    """An environment without success."""

    def __init__(self, task, spec):
        self.observation = EnvObservation({}, np.zeros(1, np.float32), "walk on", {})

    def reset(self, seed, camera):
        return self.observation

    def run(self, actions, last, on_frame):
        return StepResult(None if last else self.observation, False, len(actions))

    def close(self):
        pass


class CountingActor:
    """Chunks hold their number in the first dimension and the step in the second.

    A chunk with an action prefix continues the first dimension of the prefix.
    """

    def __init__(self):
        self.spec, self.prefixes, self.num_chunks = SPEC, [], 0

    def act(self, observation):
        self.num_chunks += 1
        chunk = torch.full((1, 6, 2), float(self.num_chunks))
        chunk[..., 1] = torch.arange(6)
        self.prefixes += observation.get("action_prefix", [])
        for row, prefix in zip(chunk, observation.get("action_prefix", []), strict=False):
            row[: len(prefix)] = prefix
            row[len(prefix) :, 0] = prefix[-1, 0] if len(prefix) else 1
        return chunk


SETTINGS = {
    "make_environment": EndlessEnvironment,
    "num_envs": 1,
    "n_action_steps": 4,
    "delay": 2,
}
EPISODES = [EvalEpisode("walk", 0, 12)]


class RecordingRollouts(RealTimeRollouts):
    """Keeps the executed actions."""

    executed = ()

    def _choose_actions(self, actor, waiting):
        actions = super()._choose_actions(actor, waiting)
        self.executed = (*self.executed, *actions)
        return actions


def execute(actor, send_prefix):
    """Executed actions ``(n, 2)`` and their changes."""
    rollouts = RecordingRollouts(send_prefix=send_prefix, **SETTINGS)
    try:
        rollouts.run(actor, EPISODES)
    finally:
        rollouts.close()
    return np.concatenate(rollouts.executed), rollouts.changes


def test_previous_chunk_is_executed_until_the_next_one_arrives():
    executed, changes = execute(CountingActor(), send_prefix=False)
    assert executed[:, 0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert executed[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 2, 3]
    boundary, within = changes.means()
    np.testing.assert_allclose(boundary, [1, 3, 10**0.5])
    np.testing.assert_allclose(within, [0, 1, 1])


def test_action_prefix_is_what_is_executed_during_inference():
    actor = CountingActor()
    executed, changes = execute(actor, send_prefix=True)
    assert [each.tolist() for each in actor.prefixes] == [[], [[1, 4], [1, 5]], [[1, 4], [1, 5]]]
    assert (executed[:, 0] == 1).all()
    assert changes.means()[0][0] == 0


@pytest.mark.parametrize("delay", [0, 4])
def test_delay_must_be_positive_and_below_n_action_steps(delay):
    with pytest.raises(ValueError, match=f"delay: expected 1 to 3, .* got {delay}"):
        RealTimeRollouts(send_prefix=True, **SETTINGS | {"delay": delay})


def test_changes_at_boundaries_are_separate_from_those_within_chunks():
    changes = ActionChanges()
    with pytest.raises(ValueError, match="got no chunk boundary"):
        changes.means()
    changes.add(np.float32([[0], [1], [5], [6]]), 2)
    assert [each.tolist() for each in changes.means()] == [[4, 4], [1, 1]]


def test_comparison_reports_the_jump_with_and_without_action_prefix():
    class RepeatingActor(CountingActor):
        def act(self, observation):
            self.num_chunks %= 3  # the same chunks in both runs
            return super().act(observation)

    table = compare_prefixes(RepeatingActor(), EPISODES, **SETTINGS)
    numbers = re.findall(r"\| 0 \| (.*) \|", table)[0].split(" | ")
    assert [float(number) for number in numbers] == [0, 1, 1, 0, 0, 0]
    assert "with prefix: success 0 of 1, 2 boundaries" in table
