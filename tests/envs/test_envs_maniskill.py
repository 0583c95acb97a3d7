import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.maniskill import ManiSkillBatch, ManiSkillEnvironment
from e0_lightning.evaluation.batched_rollouts import BatchedRollouts
from e0_lightning.evaluation.maniskill_episodes import ManiSkillEpisodes
from e0_lightning.evaluation.report.callback import RolloutReport
from e0_lightning.evaluation.rollout import Rollouts
from e0_lightning.types import PolicySpec

pytestmark = pytest.mark.simulator

PUSH = PolicySpec(
    views={"base_camera": 128},
    state={"qpos": 9, "tcp_pose": 7},
    action_dim=8,
    control_mode="pd_joint_pos",
    horizon=65,
)


class Demo:
    """A recorded demonstration."""

    def __init__(self, file, entry):
        trajectory = file[f"traj_{entry['episode_id']}"]
        self.seed = entry["episode_seed"]
        self.actions = trajectory["actions"][()]
        self.qpos = trajectory["obs/agent/qpos"][()]
        self.tcp_pose = trajectory["obs/extra/tcp_pose"][()]
        self.images = trajectory["obs/sensor_data/base_camera/rgb"][()]
        self.steps = int(np.argmax(trajectory["success"][()])) + 1


@pytest.fixture(scope="module")
def recorded(demos):
    entries = json.loads(Path(demos).with_suffix(".json").read_text())["episodes"]
    with h5py.File(demos) as file:
        return [Demo(file, entry) for entry in entries]


class Replay(LightningModule):
    """Repeats the demonstration with the nearest initial state, or holds it if frozen."""

    spec = PUSH

    def __init__(self, recorded, frozen=False):
        super().__init__()
        self.recorded, self.frozen = recorded, frozen

    def act(self, observation):
        return torch.stack([self._chunk(state) for state in observation["state"]])

    def test_step(self, batch, batch_idx):
        return batch.run(self)

    def _chunk(self, state):
        def distance(demo):
            start = np.concatenate([demo.qpos[0], demo.tcp_pose[0]])
            return np.abs(start - state.numpy()).sum()

        demo = min(self.recorded, key=distance)
        actions = demo.actions[:1] if self.frozen else demo.actions
        padding = np.repeat(actions[-1:], PUSH.horizon - len(actions), axis=0)
        return torch.from_numpy(np.concatenate([actions, padding]))


@pytest.fixture(scope="module")
def rollouts():
    rollouts = Rollouts(ManiSkillEnvironment, num_envs=2, n_action_steps=PUSH.horizon)
    yield rollouts
    rollouts.close()


@pytest.fixture(scope="module")
def environment():
    environment = ManiSkillEnvironment("PushCube-v1", PUSH)
    yield environment
    environment.close()


def test_the_actions_of_a_demonstration_succeed_at_the_recorded_step(rollouts, recorded):
    episodes = [EvalEpisode("PushCube-v1", demo.seed, 100) for demo in recorded]
    results = rollouts.run(Replay(recorded), episodes)
    assert [result.success for result in results] == [True, True]
    assert [result.steps for result in results] == [demo.steps for demo in recorded]


def test_the_batched_simulation_gives_the_same_results(recorded):
    make = partial(ManiSkillBatch, sim_backend="physx_cpu")
    batched = BatchedRollouts(make, num_envs=1, n_action_steps=30)
    processes = Rollouts(ManiSkillEnvironment, num_envs=1, n_action_steps=30)
    episodes = [EvalEpisode("PushCube-v1", demo.seed, 40) for demo in recorded]
    expected = processes.run(Replay(recorded), episodes)
    processes.close()
    assert batched.run(Replay(recorded), episodes) == expected
    batched.close()


def test_a_scene_that_is_reset_alone_starts_the_episode_of_its_seed(environment, recorded):
    batch = ManiSkillBatch("PushCube-v1", PUSH, 1, "physx_cpu")
    batch.reset([recorded[1].seed])
    batch.reset_scene(0, recorded[0].seed)
    [result] = batch.run(recorded[0].actions[None, :4], False, [None])
    batch.close()
    environment.reset(recorded[0].seed)
    expected = environment.run(recorded[0].actions[:4], False, None)
    np.testing.assert_array_equal(result.observation.state, expected.observation.state)
    images = result.observation.images, expected.observation.images
    np.testing.assert_array_equal(*(each["base_camera"] for each in images))


def test_an_actor_that_does_not_move_fails_after_max_steps(rollouts, recorded):
    episodes = [EvalEpisode("PushCube-v1", recorded[0].seed, 70)]
    [result] = rollouts.run(Replay(recorded, frozen=True), episodes)
    assert (result.success, result.steps, result.error) == (False, 70, "")


def test_observations_equal_the_recorded_ones(environment, recorded):
    demo = recorded[0]
    first = environment.reset(demo.seed)
    later = environment.run(demo.actions[:8], last=False, on_frame=None).observation
    for observation, step in ((first, 0), (later, 8)):
        state = np.concatenate([demo.qpos[step], demo.tcp_pose[step]])
        np.testing.assert_array_equal(observation.state, state)
        # Another renderer may round differently.
        difference = observation.images["base_camera"].astype(int) - demo.images[step]
        assert np.abs(difference).mean() < 1
    assert first.instruction == "push the cube to the target region"
    assert first.intrinsics["base_camera"].tolist() == [[64, 0, 64], [0, 64, 64], [0, 0, 1]]


def test_an_episode_does_not_depend_on_those_before(environment, recorded):
    def run(demo):
        environment.reset(demo.seed)
        return environment.run(demo.actions[: demo.steps - 1], False, None).observation

    first, other = recorded[:2]
    before, _, after = run(first), run(other), run(first)
    assert np.array_equal(before.state, after.state)
    assert np.array_equal(before.images["base_camera"], after.images["base_camera"])


def test_every_step_gives_a_video_frame(environment, recorded):
    frames = []
    environment.reset(recorded[0].seed)
    environment.run(recorded[0].actions[:2], last=True, on_frame=frames.append)
    assert [frame.shape for frame in frames] == [(512, 512, 3)] * 2
    assert frames[0].std() > 0


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("PushCub-v1", {}, "got 'PushCub-v1'; did you mean PushCube-v1"),
        ("PokeCube-v1", {}, "expected an instruction"),
        ("PushCube-v1", {"views": {"wrist": 128}}, "among the cameras base_camera.*got 'wrist'"),
        ("PushCube-v1", {"views": {"base_camera": 64, "wrist": 32}}, "got 'wrist'"),
        ("PushCube-v1", {"control_mode": "pd_magic"}, "pd_joint_pos.*got 'pd_magic'"),
        ("PushCube-v1", {"action_dim": 7}, "expected actions of 8 dimensions .* got 7"),
        ("PushCube-v1", {"state": {"goal_pos": 3}}, "among .*qpos.*got 'goal_pos'"),
        (
            "PushCube-v1",
            {"state": {"qpos": 8}},
            "expected 8 dimensions of state part qpos .* got 9",
        ),
    ],
    ids=["task", "instruction", "view", "views", "control mode", "actions", "state", "state size"],
)
@pytest.mark.usefixtures("environment")  # keeps the compiled shaders alive
def test_an_incompatible_spec_is_refused(task, change, message):
    with pytest.raises(ValueError, match=message):
        ManiSkillEnvironment(task, replace(PUSH, **change))


@pytest.mark.usefixtures("environment")
def test_goal_and_flags_are_state_parts():
    state = {"qpos": 9, "goal_pos": 3, "is_grasped": 1}
    environment = ManiSkillEnvironment("PickCube-v1", replace(PUSH, state=state, views={}))
    observation = environment.reset(3)
    environment.close()
    assert observation.state.shape == (13,)
    assert observation.state[12] == 0
    assert observation.images == {}


def test_lightning_test_records_and_reports_episodes(recorded, tmp_path):
    demo = recorded[1]
    episodes = ManiSkillEpisodes(
        ["PushCube-v1"],
        num_episodes=2,
        first_seed=demo.seed,
        num_envs=1,
        n_action_steps=PUSH.horizon,
        num_videos=1,
        max_steps=70,
    )
    trainer = Trainer(
        default_root_dir=tmp_path,
        logger=False,
        accelerator="cpu",
        callbacks=[RolloutReport()],
        enable_progress_bar=False,
    )
    trainer.test(Replay([demo]), episodes)
    report = json.loads((tmp_path / "rollouts" / "results.json").read_text())
    assert report["episodes"][0]["success"] is True
    assert report["episodes"][0]["steps"] == demo.steps
    assert [each["seed"] for each in report["episodes"]] == [demo.seed, demo.seed + 1]
    assert report["max_steps"] == {"PushCube-v1": 70}
    assert {"mani_skill", "sapien", "renderer", "torch", "e0-lightning"} <= set(report["versions"])
    video = tmp_path / "rollouts" / "videos" / f"PushCube-v1_{demo.seed}_success.mp4"
    assert video.stat().st_size > 1000
