from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.pusht import PushTEnvironment
from e0_lightning.evaluation.env_worker import EnvWorker
from e0_lightning.types import PolicySpec
from pusht_recording import record

pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: pip install '.[pusht]'")

SPEC = PolicySpec(
    views={"top": 96},
    state={"agent_pos": 2, "block_pose": 3, "block_keypoints": 16},
    action_dim=2,
    control_mode="point_position",
    horizon=16,
)
HUMAN = Path(__file__).parents[3] / "shared" / "data" / "pusht" / "pusht_robomimic.hdf5"


@pytest.fixture(scope="module")
def environment():
    return PushTEnvironment("PushT-v0", SPEC)


def test_observations_are_gym_pushts_own(environment):
    from gym_pusht.envs import PushTEnv

    reference = PushTEnv(obs_type="environment_state_agent_pos")
    expected, _ = reference.reset(seed=7)
    observed = environment.reset(7)
    actions = np.array([[200, 300], [300, 250], [320, 310]], np.float32)
    for step in range(2):
        agent, keypoints = expected["agent_pos"], expected["environment_state"]
        np.testing.assert_allclose(observed.state[:2], agent, rtol=1e-6)
        np.testing.assert_allclose(observed.state[5:], keypoints, rtol=1e-5)
        assert observed.state[4] == np.float32(reference.block.angle % (2 * np.pi))
        np.testing.assert_array_equal(observed.images["top"], reference._render())
        if step == 0:
            observed = environment.run(actions, last=False, on_frame=None).observation
            for action in actions:
                expected, *_ = reference.step(action.astype(float))


def test_recorded_actions_reproduce_a_recording_from_its_first_state(environment):
    rows = record(steps=40, seed=3)
    assert np.ptp(rows["block_pose"][:, 0]) > 20  # the block is pushed
    replay(environment, rows)


@pytest.mark.skipif(not HUMAN.exists(), reason=f"{HUMAN} is not there")
def test_human_demonstrations_are_reproduced(environment):
    with h5py.File(HUMAN) as file:
        for index in (0, 1, 2):
            demo = file[f"data/demo_{index}"]
            rows = {name: values[:80] for name, values in demo["obs"].items()}
            replay(environment, {**rows, "actions": demo["actions"][:80]})


def replay(environment, rows):
    """Compare the states and the first frame of a replay with the recorded ones."""
    observed = environment.reset_to(rows["agent_pos"][0], rows["block_pose"][0])
    difference = observed.images["top"].astype(float) - rows["top_image"][0]
    assert np.abs(difference).mean() < 0.1
    states = [observed.state]
    for action in rows["actions"][:-1]:
        states.append(environment.run(action[None], False, None).observation.state)
    states = np.array(states)
    assert np.abs(states[:, :2] - rows["agent_pos"]).max() < 0.1
    assert np.abs(states[:, 2:4] - rows["block_pose"][:, :2]).max() < 0.1


def test_the_score_is_the_largest_reward_of_the_episode(environment):
    # Moved onto the target, then pushed off it.
    environment.reset_to([256, 480], [256, 256, np.pi / 4 + 0.05])
    away = np.array([[256, 480], [256, 120], [256, 20]], np.float32).repeat(6, axis=0)
    first = environment.run(away[:1], last=False, on_frame=None)
    later = environment.run(away[1:], last=True, on_frame=None)
    assert 0.9 < first.score < 1
    assert later.score == first.score
    assert environment._env._get_coverage() / 0.95 < 0.5
    assert (later.success, later.steps, later.observation) == (False, 17, None)
    environment.reset(0)
    assert environment.run(away[:1], last=True, on_frame=None).score < first.score


def test_a_covered_target_ends_the_episode_with_success_and_full_score(environment):
    environment.reset_to([30, 30], [256, 256, np.pi / 4])
    result = environment.run(np.full((5, 2), 30, np.float32), last=False, on_frame=None)
    assert (result.success, result.steps, result.score, result.observation) == (True, 1, 1.0, None)


def test_the_result_of_an_episode_has_its_score():
    worker = EnvWorker(PushTEnvironment, replace(SPEC, views={}))
    worker.handle(EvalEpisode("PushT-v0", 4, 3))
    result = worker.handle(np.full((8, 2), 256, np.float32))
    assert (result.steps, result.error) == (3, "")
    assert 0 <= result.score < 1


def test_every_step_gives_a_video_frame(environment):
    frames = []
    environment.reset(0)
    environment.run(np.full((2, 2), 256, np.float32), last=True, on_frame=frames.append)
    assert [frame.shape for frame in frames] == [(384, 384, 3)] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": {"wrist": 96}}, r"views \['top'\], got \['wrist'\]"),
        ({"state": {"agent_pos": 2, "goal": 3}}, "'goal': None"),
        ({"action_dim": 7}, "action dimensions 2, got 7"),
        ({"control_mode": "pd_joint_pos"}, "control mode point_position, got pd_joint_pos"),
    ],
    ids=["view", "state", "actions", "control mode"],
)
def test_an_incompatible_spec_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PushTEnvironment("PushT-v0", replace(SPEC, **change))


def test_other_tasks_and_displaced_cameras_are_refused(environment):
    with pytest.raises(ValueError, match="expected PushT-v0, got 'PushCube-v1'"):
        PushTEnvironment("PushCube-v1", SPEC)
    with pytest.raises(ValueError, match="without a camera"):
        environment.reset(0, (15.0, 0.0, 0.0))
