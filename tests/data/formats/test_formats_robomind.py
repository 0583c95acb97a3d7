"""RoboMIND's trajectories: rows of JPEG and raw bytes, in colors that depend on the robot."""

import h5py
import numpy as np
import pytest

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.types import ViewSize
from recorders import RED, write_robomind

ROBOTS = {
    "franka": ({"joint_position": 8, "end_effector": 6}, True, "robomind", 8),
    "ur": ({"joint_position": 7, "end_effector": 6}, True, "robomind", 7),
    "tien kung": ({"joint_position": 16}, False, "robomind_tienkung", 16),
    "agilex": (
        {"joint_position_left": 7, "joint_position_right": 7, "end_effector_left": 7},
        False,
        "robomind_agilex",
        14,
    ),
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "trajectory.hdf5")


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_leader_is_the_action_and_the_follower_the_state(path, robot):
    joints, bgr, name, dims = ROBOTS[robot]
    recorded = write_robomind(path, joints, bgr=bgr)
    reader = open_demos(path, ["camera_top"], list(joints)[:1])
    assert (reader.format, reader.spec.action_dim, reader.rate) == (name, dims, 30)
    assert reader.instruction("demo") == "close the trash bin"
    part = next(iter(joints))
    state, action = recorded[f"puppet/{part}"], recorded[f"master/{part}"]
    np.testing.assert_array_equal(reader.states("demo", 0, 6), np.float32(state))
    read = reader.actions("demo", 0, 6)[:, : action.shape[1]]
    np.testing.assert_array_equal(read, np.float32(action))
    np.testing.assert_allclose(reader.images("demo", 2, 3)["camera_top"][0, 80, 80], RED, atol=8)


@pytest.mark.parametrize("raw_rows", [(0, 3), (2,)], ids=["from the first", "in the middle"])
def test_raw_rows_among_encoded_ones_are_frames_too(path, raw_rows):
    recorded = write_robomind(path, ROBOTS["franka"][0], raw_rows=raw_rows)
    reader = open_demos(path, ["camera_left"], ["joint_position"])
    assert reader.spec.views == {"camera_left": ViewSize(480, 640)}
    frames, expected = reader.images("demo", 0, 6)["camera_left"], recorded["images"]["camera_left"]
    for row in raw_rows:
        np.testing.assert_array_equal(frames[row], expected[row])
    assert np.abs(frames - expected.astype(int)).mean() < 3


def test_sentences_are_found_in_a_csv_by_a_folder_of_the_trajectory(tmp_path):
    trajectory = tmp_path / "close_bin" / "success_episodes" / "1021" / "trajectory.hdf5"
    trajectory.parent.mkdir(parents=True)
    write_robomind(trajectory, ROBOTS["ur"][0])
    with h5py.File(trajectory, "a") as file:
        del file["language_raw"]
    (tmp_path / "tasks.csv").write_text('task,sentence\nclose_bin,"Close the bin, slowly."\n')
    key_map = tmp_path / "mine.yaml"
    key_map.write_text(
        "images: {'*': observations/rgb_images/*}\nstate: {'*': puppet/*}\n"
        "actions: master/joint_position\ninstruction: ../../../tasks.csv\nfile: {color: bgr}\n"
    )
    reader = open_demos(str(trajectory), key_map=str(key_map))
    assert reader.instruction("demo") == "Close the bin, slowly."
