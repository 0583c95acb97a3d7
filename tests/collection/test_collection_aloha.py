"""Recorded demonstrations against ACT's layout and gym-aloha's own observations."""

import h5py
import numpy as np
import pytest

from e0_lightning.collection.aloha import collect
from e0_lightning.collection.aloha_expert import NUM_STEPS
from e0_lightning.collection.aloha_recorder import AlohaRecorder
from e0_lightning.envs.aloha_simulation import SUCCESS, AlohaSimulation

TASK, SEED = "AlohaTransferCube-v0", 7
RENDERED = 2
"""First frames that are rendered, others are black: rendering takes most of the time."""

pytestmark = pytest.mark.simulator


@pytest.fixture(scope="module")
def recorded(aloha_backend, tmp_path_factory):
    path = tmp_path_factory.mktemp("aloha") / "episode_0.hdf5"
    recorder = AlohaRecorder(TASK, aloha_backend)
    render, frames = recorder.simulation.render, iter(range(NUM_STEPS))

    def render_first(height, width):
        if next(frames) < RENDERED:
            return render(height, width)
        return np.zeros((height, width, 3), np.uint8)

    recorder.simulation.render = render_first
    reason = recorder.demonstrate(SEED, path)
    recorder.close()
    assert reason == ""
    return path


def layout(file):
    """Name to shape, type, chunks and filters of every data set, and all attributes."""
    found = {"attributes": dict(file.attrs)}

    def describe(name, member):
        assert not member.attrs
        if isinstance(member, h5py.Dataset):
            filters = member.compression, member.shuffle, member.fletcher32, member.scaleoffset
            found[name] = member.shape, member.dtype, member.chunks, filters

    file.visititems(describe)
    return found


def test_a_recorded_file_has_the_layout_of_acts_recorder(recorded, tmp_path):
    with h5py.File(tmp_path / "act.hdf5", "w") as file:
        # What ACT's record_sim_episodes.py creates; qpos, qvel and action have h5py's default type.
        file.attrs["sim"] = True
        observations = file.create_group("observations")
        size = (NUM_STEPS, 480, 640, 3)
        images = observations.create_group("images")
        images.create_dataset("top", size, dtype="uint8", chunks=(1, 480, 640, 3))
        observations.create_dataset("qpos", (NUM_STEPS, 14), "f4")
        observations.create_dataset("qvel", (NUM_STEPS, 14), "f4")
        file.create_dataset("action", (NUM_STEPS, 14), "f4")
        expected = layout(file)
    with h5py.File(recorded) as file:
        assert layout(file) == expected


def test_recorded_observations_are_those_that_gym_aloha_returns_before_each_action(recorded):
    import gym_aloha  # noqa: F401  # registers its tasks
    import gymnasium

    env = gymnasium.make(f"gym_aloha/{TASK}", obs_type="pixels_agent_pos")
    observation, _ = env.reset(seed=SEED)
    with h5py.File(recorded) as file:
        for step in range(RENDERED):
            frame = file["observations/images/top"][step]
            np.testing.assert_array_equal(frame, observation["pixels"]["top"])
            qpos = observation["agent_pos"].astype(np.float32)
            np.testing.assert_array_equal(file["observations/qpos"][step], qpos)
            observation, *_ = env.step(file["action"][step])
    env.unwrapped._env.physics.free()


def test_recorded_actions_solve_the_task_and_hold_the_cube_at_the_end(recorded, aloha_backend):
    with h5py.File(recorded) as file:
        actions = file["action"][()]
    simulation = AlohaSimulation(TASK, aloha_backend)
    simulation.reset(SEED)
    rewards = [simulation.step(action) for action in actions.astype(np.float64)]
    simulation.close()
    assert rewards[-1] == SUCCESS
    # Both grippers are open when the arms have reached cube and meeting point.
    assert actions[:, [6, 13]].min(0).tolist() == [0, 0]
    assert actions[:, [6, 13]].max(0) == pytest.approx([1, 1], abs=0.01)


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a task of gym-aloha, AlohaTransferCube-v0"):
        collect("AlohaFoldTowel-v0", tmp_path)
    with pytest.raises(ValueError, match="num_episodes: expected at least 1, got 0"):
        collect(TASK, tmp_path, num_episodes=0)
