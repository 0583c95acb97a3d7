"""Every policy's actions in an episode depend on the episode alone, to the bit."""

import numpy as np
import pytest
import torch

from e0_lightning.envs.base import EnvObservation, EvalEpisode, StepResult
from e0_lightning.evaluation.results_store import key
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts
from tiny_policy import SPEC, STATE, ready_policy, tiny_settings

pytestmark = pytest.mark.slow

BINS = {"process": {"num_bins": 32}}
POLICIES = {
    "Regression": tiny_settings("Regression"),
    "FlowMatching": tiny_settings("FlowMatching"),
    "MaskedDiffusion": tiny_settings("MaskedDiffusion", **BINS),
    "Autoregressive": tiny_settings("Autoregressive", num_bins=32, temperature=1.0),
    "E0Hybrid": tiny_settings("E0Hybrid", **BINS),
} | {
    sampler: tiny_settings(sampler={"class_path": sampler})
    for sampler in ("TweedieSampler", "ArgmaxSampler", "CategoricalSampler", "ReleasedSampler")
}


class FeedbackEnvironment:
    """Observations depend on the seed and on all actions; no episode succeeds."""

    def __init__(self, task, spec):
        pass

    def reset(self, seed, camera):
        self.generator = np.random.default_rng(seed)
        self.state = self.generator.normal(size=STATE).astype(np.float32)
        return self._observe()

    def run(self, actions, last, on_frame):
        self.state += actions.sum()
        return StepResult(None if last else self._observe(), False, len(actions))

    def close(self):
        pass

    def _observe(self):
        image = self.generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return EnvObservation({"base": image}, self.state.copy(), "push the cube", {})


class Recorder:
    """Records the action chunks of a policy by noise seed, which is unique by episode and step."""

    def __init__(self, policy):
        self.policy, self.spec, self.chunks, self.batch_sizes = policy, policy.spec, {}, []

    def act(self, observation):
        actions = self.policy.act(observation)
        self.chunks |= dict(zip(observation["noise_seed"], actions, strict=True))
        self.batch_sizes.append(len(actions))
        return actions


@pytest.fixture(scope="module")
def rollouts():
    by_size = {n: Rollouts(FeedbackEnvironment, n, n_action_steps=2) for n in (1, 3, 8)}
    yield by_size
    for each in by_size.values():
        each.close()


@pytest.mark.parametrize("name", POLICIES)
def test_actions_are_equal_alone_in_a_batch_of_eight_and_after_a_resume(rollouts, name):
    assert SPEC.horizon >= 2
    policy = ready_policy(POLICIES[name])
    episodes = [EvalEpisode("push", seed, 4 + 2 * (seed % 2)) for seed in range(8)]

    def run(num_envs, some, finished=()):
        recorder = Recorder(policy)
        batch = RolloutBatch(rollouts[num_envs], some, {})
        batch.finished = {key(result): result for result in finished}
        return batch.run(recorder), recorder

    results, whole = run(8, episodes)
    assert whole.batch_sizes[0] == 8
    for recorder in (
        run(1, episodes[5:6])[1],
        run(3, episodes)[1],
        run(3, episodes, finished=results[:4])[1],
    ):
        assert len(recorder.chunks) >= 3
        for seed, chunk in recorder.chunks.items():
            assert torch.equal(chunk, whole.chunks[seed])
