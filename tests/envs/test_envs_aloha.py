"""gym-aloha as an environment: observations against its own, episodes of a scripted actor."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from e0_lightning.collection.aloha_expert import AlohaExpert
from e0_lightning.envs.aloha import CONTROL_MODE, AlohaEnvironment, check_spec
from e0_lightning.envs.camera_orbit import CameraError
from e0_lightning.evaluation.aloha_episodes import AlohaEpisodes
from e0_lightning.geometry import resize_frames
from e0_lightning.types import PolicySpec, ViewSize

TASK, HORIZON = "AlohaTransferCube-v0", 200
TOP = ViewSize(60, 80, crop=[120, 160, 240, 320], camera=(480, 640))
SPEC = PolicySpec({"top": TOP}, {"qpos": 14}, 14, CONTROL_MODE, HORIZON)

pytestmark = pytest.mark.simulator


@pytest.fixture(scope="module")
def environment(aloha_backend):
    environment = AlohaEnvironment(TASK, SPEC, aloha_backend)
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def own(aloha_backend):
    """gym-aloha's own environment."""
    import gym_aloha  # noqa: F401  # registers its tasks

    env = gymnasium.make(f"gym_aloha/{TASK}", obs_type="pixels_agent_pos")
    yield env
    env.unwrapped._env.physics.free()


@pytest.fixture(scope="module")
def targets(aloha_backend):
    """The expert's joint targets, by seed."""
    expert = AlohaExpert(TASK)
    targets = {seed: expert.joint_targets(seed)[:HORIZON] for seed in (3, 4)}
    expert.close()
    return targets


def test_observations_and_success_are_those_of_gym_aloha(environment, own, targets):
    seed, actions = 3, targets[3].astype(np.float32)[:2]
    expected = [own.reset(seed=seed)[0], *[own.step(action)[0] for action in actions][-1:]]
    observed = [environment.reset(seed), environment.run(actions, False, None).observation]
    for observation, reference in zip(observed, expected, strict=True):
        frame = resize_frames(reference["pixels"]["top"][None], TOP)[0]
        np.testing.assert_array_equal(observation.images["top"], frame)
        np.testing.assert_array_equal(observation.state, np.float32(reference["agent_pos"]))
    assert observed[0].instruction.startswith("Pick up the cube")


def test_camera_matrix_projects_the_cube_onto_its_pixels(environment):
    observation = environment.reset(5)
    red = observation.images["top"].astype(int) @ [1, -1, -1] > 100
    row, column = np.argwhere(red).mean(0) + 0.5
    cube = environment._simulation.physics.data.qpos[16:19]
    # The camera is 0.8 m above (0, 0.6): x to the right, y up in the image.
    point = np.array([cube[0], 0.6 - cube[1], 0.8 - cube[2] - 0.02])
    x, y, depth = observation.intrinsics["top"] @ point
    assert (column, row) == pytest.approx((x / depth, y / depth), abs=1)


def test_a_step_gives_a_video_frame(environment, targets):
    frames = []
    environment.reset(3)
    environment.run(targets[3][:1], last=True, on_frame=frames.append)
    assert [frame.shape for frame in frames] == [(240, 320, 3)]


def test_a_displaced_camera_is_refused(environment):
    with pytest.raises(CameraError, match="'top' looks straight down"):
        environment.reset(0, (10.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": {"angle": 64}}, "expected the view top, got angle"),
        ({"state": {"qvel": 14}}, r"expected the state part qpos \(14\), or none, got"),
        ({"action_dim": 7}, "expected 14 action dimensions in joint_position, got 7"),
        ({"control_mode": "pd_joint_pos"}, "got 14 in 'pd_joint_pos'"),
    ],
    ids=["view", "state", "dimensions", "controller"],
)
def test_an_incompatible_spec_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_spec(TASK, replace(SPEC, **wrong))
    check_spec(TASK, replace(SPEC, views={}, state={}))


class Script(LightningModule):
    """Executes joint targets, those of one episode after another."""

    spec = SPEC

    def __init__(self, targets):
        super().__init__()
        self.chunks = iter(torch.from_numpy(np.float32(targets)))

    def act(self, observation):
        return next(self.chunks)[None]

    def test_step(self, batch, batch_idx):
        return batch.run(self)


def test_episodes_count_a_scripted_transfer_as_success_and_standing_still_as_failure(targets):
    episodes = AlohaEpisodes(
        num_episodes=2, first_seed=3, num_envs=1, n_action_steps=HORIZON, max_steps=HORIZON,
        num_videos=0,
    )  # fmt: skip
    still = np.repeat(targets[4][:1], HORIZON, axis=0)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    results = []
    actor = Script([targets[3], still])
    actor.on_test_batch_end = lambda outputs, *_: results.extend(outputs)
    trainer.test(actor, episodes, verbose=False)
    assert [result.success for result in results] == [True, False]
    assert results[0].steps < HORIZON == results[1].steps


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"first_seed": 1, "num_val_episodes": 2}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="first_seed, max_steps: expected"):
        AlohaEpisodes(**wrong)
