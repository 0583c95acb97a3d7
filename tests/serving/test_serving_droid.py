"""openpi's client drives DROID's robot in ManiSkill over the socket."""

import numpy as np
import pytest
import torch
from scripted_server import running

from e0_lightning.benchmarks.droid import benchmark, connect
from e0_lightning.benchmarks.droid_client import DroidClient
from e0_lightning.collection import droid
from e0_lightning.collection.droid import DroidRecorder
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.droid import DroidEnvironment
from e0_lightning.envs.droid_panda import DroidPanda
from e0_lightning.evaluation.rollout import Rollouts
from e0_lightning.policies.checkpoint import build_policy
from e0_lightning.types import PolicySpec
from tiny_policy import tiny_settings

TASK, SEED, HORIZON = "PushCube-v1", 6, 10
SPEC = PolicySpec(
    views={"exterior_image_1_left": 224, "wrist_image_left": 224},
    state={"joint_position": 7, "gripper_position": 1},
    action_dim=8,
    control_mode="joint_velocity",
    horizon=HORIZON,
)

pytestmark = pytest.mark.simulator
pytest.importorskip(
    "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
)


class RecordedActor:
    """Returns the actions that followed the most similar state of a demonstration."""

    spec = SPEC

    def __init__(self, states, actions):
        padded = np.concatenate([actions, np.repeat(actions[-1:], HORIZON, axis=0)])
        self.states = torch.from_numpy(states)
        self.chunks = torch.from_numpy(padded).unfold(0, HORIZON, 1).transpose(1, 2)
        self.images, self.batches, self.instructions = [], [], []

    def act(self, observation):
        self.images.append(observation["images"])
        return self.chunks[torch.cdist(observation["state"], self.states).argmin(dim=1)]


@pytest.fixture(scope="module")
def actor(tmp_path_factory):
    path = tmp_path_factory.mktemp("droid") / "episode_0.h5"
    recorder = DroidRecorder(TASK)
    recorder.panda.frames = dict  # rendering takes most of the time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(droid, "NOISE", 0.0)  # so that the actions solve the task without policy
        reason = recorder.demonstrate(SEED, path)
    recorder.close()
    assert reason == ""
    reader = open_demos(str(path), [])
    steps = reader.lengths()["demo"]
    return RecordedActor(reader.states("demo", 0, steps), reader.actions("demo", 0, steps))


@pytest.fixture(scope="module")
def in_process(actor):
    """Success and steps by the evaluation's rollouts, and the images that the actor got."""
    actor.images = []
    rollouts = Rollouts(DroidEnvironment, num_envs=1, n_action_steps=8)
    try:
        (result,) = rollouts.run(actor, [EvalEpisode(TASK, SEED, 100)])
    finally:
        rollouts.close()
    assert not result.error
    return (result.success, result.steps), list(actor.images)


def drive(actor, clock):
    robot = DroidPanda(TASK)
    with running(actor, key_map="droid") as server:
        actor.images = []  # without those of the warm-up
        client = connect("127.0.0.1", server.port)
        episode = DroidClient(robot, client, "push", clock=clock).run(SEED, 100)
        client._ws.close()
    robot.close()
    return episode


def test_without_delay_an_episode_over_the_socket_equals_one_in_process(actor, in_process):
    result, images = in_process
    episode = drive(actor, clock=lambda: 0.0)
    assert (episode.success, episode.steps) == result
    assert episode.success
    assert (episode.missed_deadlines, len(episode.response_seconds)) == (0, -(-episode.steps // 8))
    for sent, rendered in zip(actor.images, images, strict=True):
        for view, image in rendered.items():
            # openpi resizes with Pillow, rollouts with torch.
            assert (sent[view].float() - image.float()).abs().mean() < 1


def test_while_a_response_is_late_the_robot_waits(actor, in_process):
    now = iter(np.arange(1000) * 0.15)
    episode = drive(actor, clock=lambda: next(now))
    assert episode.missed_deadlines == 2 * len(episode.response_seconds)
    (_, steps), _ = in_process
    assert episode.seconds > steps / 15


class DroidData:
    """Statistics for a policy."""

    spec = SPEC

    def action_chunks(self):
        states, actions = torch.randn(4, 8), torch.rand(4, HORIZON, 8) * 2 - 1
        yield actions, states, torch.ones(4, HORIZON, dtype=torch.bool)


def test_an_untrained_policy_is_driven_by_the_benchmark(capsys):
    settings = tiny_settings()
    settings["init_args"]["encoder"]["state_dim"] = 8
    normalizer = {"class_path": "QuantileNormalizer", "init_args": {"dim": 8}}
    settings["init_args"]["actions"] = {"horizon": HORIZON, "normalizer": normalizer}
    policy = build_policy(settings)
    policy.fit_normalizers(DroidData())
    policy.batches, policy.instructions = [], []
    with running(policy.eval(), key_map="droid") as server:
        benchmark(port=server.port, num_episodes=1, max_steps=9, delay_ms=[100.0])
    *_, row = capsys.readouterr().out.splitlines()
    delay, dropped, success, _, p50, _, missed, *_ = row.strip("| ").split(" | ")
    assert (delay, dropped, success) == ("100", "0%", "0 of 1")
    assert float(p50) >= 100
    assert int(missed) >= 2
