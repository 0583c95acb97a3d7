"""RoboTwin 2: its own layout until August 2026, XPolicyLab's since, with images of both kinds."""

import numpy as np
import pytest

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.types import ViewSize
from recorders import INTRINSICS, RED, write_robotwin, write_robotwin_xpolicylab


def test_the_measured_joints_of_the_next_row_are_the_action(tmp_path):
    path, recorded = write_robotwin(tmp_path)
    reader = open_demos(path, ["head_camera"], ["vector"])
    assert (reader.format, reader.lengths()) == ("robotwin", {"demo": 5})
    vector = recorded["vector"].astype(np.float32)
    np.testing.assert_array_equal(reader.states("demo", 0, 5), vector[:-1])
    np.testing.assert_array_equal(reader.actions("demo", 0, 5), vector[1:])
    frames, expected = reader.images("demo", 0, 5)["head_camera"], recorded["images"]["head_camera"]
    assert np.abs(frames - expected[:5].astype(int)).mean() < 3
    np.testing.assert_allclose(frames[0, 30, 30], RED, atol=8)


def test_sentence_and_cameras_of_robotwin(tmp_path):
    path, _ = write_robotwin(tmp_path, episode=3)
    reader = open_demos(path, {"left_camera": ViewSize(120, 160)}, [])
    assert reader.instruction("demo") == "Lift the red block."
    assert reader.spec.views["left_camera"].camera == (240, 320)
    scaled = np.diag([0.5, 0.5, 1]) @ INTRINSICS
    np.testing.assert_allclose(reader.intrinsics("demo")["left_camera"], scaled)
    assert set(open_demos(path).spec.state) >= {"vector", "left_arm", "left_endpose"}


@pytest.mark.parametrize("marked", [False, True], ids=["swapped", "marked as RGB"])
def test_xpolicylabs_files_have_their_colors(tmp_path, marked):
    path = str(tmp_path / "episode_0000003.hdf5")
    recorded = write_robotwin_xpolicylab(path, marked=marked)
    reader = open_demos(path, ["cam_head"], ["left_arm_joint_states", "left_ee_joint_states"])
    assert (reader.format, reader.lengths()) == ("robotwin_xpolicylab", {"demo": 5})
    assert reader.instruction("demo") == "Lift the red block."
    frames = reader.images("demo", 0, 5)["cam_head"]
    expected = recorded["images"]["head_camera"][:5]
    assert np.abs(frames - expected.astype(int)).mean() < 3
    np.testing.assert_allclose(frames[0, 30, 30], RED, atol=8)


def test_xpolicylabs_files_are_paired_already(tmp_path):
    path = str(tmp_path / "episode_0000000.hdf5")
    recorded = write_robotwin_xpolicylab(path)
    reader = open_demos(path, [], ["left_arm_joint_states", "left_ee_joint_states"])
    parts = [recorded[name].reshape(6, -1) for name in ("left_arm", "left_gripper")]
    state = np.concatenate(parts, axis=1, dtype=np.float32)
    np.testing.assert_array_equal(reader.states("demo", 0, 5), state[:-1])
    actions = reader.actions("demo", 0, 5)
    assert actions.shape == (5, 14)
    np.testing.assert_array_equal(actions[:, :7], state[1:])
