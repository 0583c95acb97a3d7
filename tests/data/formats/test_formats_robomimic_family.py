"""MimicGen, Isaac Lab Mimic and RoboCasa, which write robomimic's layout."""

import numpy as np
import pytest

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.sources import DemoSource
from e0_lightning.types import ViewSize
from recorders import write_isaac_lab, write_mimicgen, write_robocasa


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "demos.hdf5")


def test_mimicgen_has_groups_beside_its_observations(path):
    frames = write_mimicgen(path)
    reader = open_demos(path)
    assert reader.spec.views == {"agentview": ViewSize(24, 32)}
    assert reader.spec.state == {"robot0_eef_pos": 3, "robot0_gripper_qpos": 2}
    assert (reader.spec.control_mode, reader.rate) == ("osc_pose_delta", 20)
    np.testing.assert_array_equal(reader.images("demo_1", 0, 5)["agentview"], frames[1])


def test_isaac_labs_failures_are_left_out_and_nested_groups_are_no_state(path):
    recorded = write_isaac_lab(path)
    reader = open_demos(path, None, ["joint_pos", "eef_quat"])
    assert (reader.failed(), list(reader.lengths())) == (["demo_1"], ["demo_0", "demo_2"])
    assert reader.spec.views == dict.fromkeys(("table_cam", "wrist_cam"), ViewSize(24, 32))
    assert reader.spec.control_mode == "ee_pose_delta"
    content = recorded[2]
    states = np.hstack([content["obs"]["joint_pos"], content["obs"]["eef_quat"]])
    np.testing.assert_array_equal(reader.states("demo_2", 0, 5), states)
    np.testing.assert_array_equal(reader.actions("demo_2", 0, 5), content["actions"])
    cam = reader.images("demo_2", 1, 4)["table_cam"]
    np.testing.assert_array_equal(cam, content["obs"]["table_cam"][1:4])
    assert set(open_demos(path).spec.state) == {"joint_pos", "eef_quat"}


def test_robocasa_has_a_sentence_for_each_demonstration_and_lists_of_them(path):
    write_robocasa(path, ["Pick the cup.", "Open the drawer.", "Close the door."])
    views, state = ["robot0_agentview_left"], ["robot0_base_pos"]
    demos = RobotDemos([DemoSource(path)], views, state, 2, num_workers=0)
    demos.setup("fit")
    training, validation = demos.datasets
    assert [demo.instruction for demo in training.demos] == ["Pick the cup.", "Open the drawer."]
    assert [demo.instruction for demo in validation.demos] == ["Close the door."]
    assert demos.spec.control_mode == "osc_pose_delta"
