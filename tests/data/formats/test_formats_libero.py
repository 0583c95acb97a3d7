import json
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.formats.libero import camera, control_mode, sentence
from e0_lightning.types import ViewSize

SIDE, VIEWS, STATE = 8, ["agentview"], ["ee_pos", "ee_ori", "gripper_states"]
MODEL = """<mujoco><worldbody>
  <camera name="agentview" pos="0.5 0 1.5" quat="0.707107 0.707107 0 0" fovy="60"/>
  <body><camera name="robot0_eye_in_hand" fovy="75"/></body>
</worldbody></mujoco>"""
TASK = "pick_up_the_milk_and_place_it_in_the_basket"


def recorded(path, demos, late, attributes=True, model=MODEL, names=None):
    """Write a file as LIBERO's scripts do; all values of the robot's k-th pose are k.

    Action k leads from pose k to pose k + 1. `late` observations are of the pose after the action.
    """
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if attributes:
            problem = {"language_instruction": "pick the milk"}
            data.attrs["problem_info"] = json.dumps(problem)
            data.attrs["macros_image_convention"] = "opengl"
        for number, steps in demos.items():
            demo = data.create_group(f"demo_{number}")
            poses = np.arange(steps, dtype=np.float64)[:, None]
            observed = poses + late
            demo["states"] = np.hstack([np.zeros((steps, 1)), np.repeat(poses, 9, axis=1)])
            demo["actions"] = np.repeat(poses / 1000, 7, axis=1)
            sizes = {"ee_pos": 3, "ee_ori": 3, "gripper_states": 2, "joint_states": 7}
            for part, size in sizes.items():
                demo[f"obs/{part}"] = np.repeat(observed, size, axis=1)
            demo["obs/agentview_rgb"] = frames(observed[:, 0])
            demo["obs/eye_in_hand_rgb"] = frames(observed[:, 0])
            if attributes:
                demo.attrs["num_samples"] = steps
                demo.attrs["model_file"] = model
    return str(path)


def frames(numbers):
    """Frames stored bottom row first; the top left pixel of the scene is the number."""
    images = np.zeros((len(numbers), SIDE, SIDE, 3), np.uint8)
    images[:, -1, 0] = numbers[:, None]
    images[:, -1, -1] = 200  # top right
    return images


@pytest.fixture
def official(tmp_path):
    return partial(recorded, tmp_path / f"{TASK}_demo.hdf5", {0: 6, 2: 5, 10: 4}, late=1)


@pytest.fixture
def no_noops(tmp_path):
    path = tmp_path / f"{TASK}_demo.hdf5"
    return partial(recorded, path, {1: 6, 4: 5}, late=0, attributes=False)


def test_official_actions_follow_the_observation_before_them(official):
    file = open_demos(official(), VIEWS, STATE)
    assert [demo[:2] for demo in file.demos()] == [("demo_0", 5), ("demo_2", 4), ("demo_10", 3)]
    states = file.states("demo_0", 0, 5)
    np.testing.assert_array_equal(states, np.repeat(np.arange(1, 6), 8).reshape(5, 8))
    np.testing.assert_allclose(file.actions("demo_0", 0, 5)[:, 0] * 1000, states[:, 0], rtol=1e-6)
    assert file.images("demo_0", 0, 5)["agentview"][:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_files_without_no_ops_record_the_observation_before_the_action(no_noops):
    file = open_demos(no_noops(), VIEWS, STATE)
    assert [demo[:2] for demo in file.demos()] == [("demo_1", 6), ("demo_4", 5)]
    states = file.states("demo_4", 1, 4)
    np.testing.assert_allclose(file.actions("demo_4", 1, 4)[:, 6] * 1000, states[:, 7], rtol=1e-6)
    assert file.layout.format == "LIBERO, without no-ops"


def test_the_simulators_states_decide_before_the_attributes(tmp_path):
    file = open_demos(recorded(tmp_path / "a_demo.hdf5", {0: 6}, late=0), VIEWS, STATE)
    assert file.layout.lag == 0


def test_images_are_upright_and_mirrored_only_by_name(no_noops):
    file = open_demos(no_noops(), ["agentview", "agentview_mirrored"], STATE)
    images = file.images("demo_1", 3, 4)
    assert images["agentview"][0, 0, [0, -1], 0].tolist() == [3, 200]
    assert images["agentview_mirrored"][0, 0, [0, -1], 0].tolist() == [200, 3]


def test_spec_of_mirrored_views_differs(no_noops):
    true, mirrored = (
        open_demos(no_noops(), [view], STATE) for view in (*VIEWS, "agentview_mirrored")
    )
    with pytest.raises(ValueError, match=r"views: .*agentview.*agentview_mirrored"):
        true.spec.check_compatible(mirrored.spec, "the data", "the checkpoint")


def test_spec_has_the_eight_dimensional_state_of_the_papers(official):
    spec = open_demos(official(), VIEWS, STATE).spec
    assert (spec.state, spec.state_dim) == (
        {"ee_pos": 3, "ee_ori": 3, "gripper_states": 2},
        8,
    )
    assert (spec.action_dim, spec.control_mode) == (7, "osc_pose_delta")


def test_instruction_is_the_one_of_evaluations(official, no_noops, tmp_path):
    assert open_demos(official()).instruction("demo_0") == sentence(TASK)
    assert open_demos(no_noops()).instruction("demo_1") == sentence(TASK)
    renamed = recorded(tmp_path / "milk.hdf5", {0: 3}, late=1)
    assert open_demos(renamed).instruction("demo_0") == "pick the milk"
    bare = recorded(tmp_path / "bare.hdf5", {0: 3}, late=0, attributes=False)
    with pytest.raises(ValueError, match="instruction: …"):
        open_demos(bare).instruction("demo_0")


def test_the_scene_is_not_in_the_instruction():
    assert sentence("KITCHEN_SCENE10_close_the_top_drawer") == "close the top drawer"
    assert sentence("put_the_bowl_on_the_stove") == "put the bowl on the stove"


def test_intrinsics_come_from_the_model_of_the_recording(official):
    file = open_demos(official(), ["agentview", "eye_in_hand", "agentview_mirrored"], STATE)
    found = file.intrinsics("demo_0")
    assert set(found) == {"agentview", "eye_in_hand"}  # a mirrored image has no camera matrix
    focal = SIDE / 2 / np.tan(np.deg2rad(30))
    np.testing.assert_allclose(
        found["agentview"], [[focal, 0, 4], [0, focal, 4], [0, 0, 1]], rtol=1e-6
    )


def test_files_without_a_model_have_liberos_field_of_view(no_noops):
    matrix = open_demos(no_noops(), VIEWS, STATE).intrinsics("demo_1")["agentview"]
    np.testing.assert_allclose(matrix[0, 0], SIDE / 2 / np.tan(np.deg2rad(22.5)), rtol=1e-6)


def test_camera_pose_is_that_of_the_model():
    found = camera(MODEL, "agentview")
    np.testing.assert_allclose(found.pose[:3, 3], [0.5, 0, 1.5])
    np.testing.assert_allclose(found.pose[:3, 2], [0, -1, 0], atol=1e-6)  # rotated by 90° about x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("<mujoco><worldbody>", "cannot be parsed"),
        ("<mujoco/>", "no camera 'agentview'"),
        ('<mujoco><camera name="agentview" fovy="wide"/></mujoco>', "invalid numbers"),
    ],
)
def test_an_invalid_model_is_named(official, model, message):
    path = official(model=model)
    with pytest.raises(ValueError, match=rf"demo_2, attribute model_file: .*{message}"):
        open_demos(path, VIEWS, STATE).intrinsics("demo_2")


def test_a_truncated_file_is_refused(official):
    path = Path(official())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="got a truncated HDF5 file"):
        open_demos(str(path))


def test_missing_view_and_short_recording_are_named(official):
    with pytest.raises(
        ValueError, match=r"no view 'frontview'; the file has: agentview, eye_in_hand"
    ):
        _ = open_demos(official(), ["frontview"], STATE).spec
    path = official()
    with h5py.File(path, "a") as file:
        del file["data/demo_2/obs/ee_pos"]
        file["data/demo_2/obs/ee_pos"] = np.zeros((3, 3))
    with pytest.raises(ValueError, match="the 5 actions of demo_2 differ in length"):
        open_demos(path, VIEWS, STATE).demos()


def test_plain_robomimic_files_are_read_as_they_are(tmp_path):
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        settings = {"controller_configs": {"type": "OSC_POSE", "control_delta": False}}
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": settings})
        demo["actions"] = np.arange(4.0)[:, None] * np.ones(7)
        demo["obs/agentview_image"] = frames(np.arange(4))
        demo["obs/robot0_eef_pos"] = np.arange(4.0)[:, None] * np.ones(3)
    file = open_demos(str(tmp_path / "lift.hdf5"))
    assert file.layout.format == "robomimic"
    assert file.spec.control_mode == "osc_pose"
    assert file.spec.views == {"agentview": ViewSize(SIDE, SIDE)}
    assert file.actions("demo_0", 2, 3)[0, 0] == file.states("demo_0", 2, 3)[0, 0] == 2
    assert file.images("demo_0", 2, 3)["agentview"][0, -1, 0, 0] == 2
    assert file.intrinsics("demo_0") == {}


@pytest.mark.parametrize(
    ("arms", "mode"),
    [
        ({"right": ("OSC_POSE", "delta")}, "osc_pose_delta"),
        ({"right": ("JOINT_POSITION", "absolute")}, "joint_position"),
        ({"right": ("OSC_POSE", "delta"), "left": ("OSC_POSE", "delta")}, "osc_pose_delta"),
        ({"right": ("JOINT_VELOCITY", None)}, "joint_velocity_delta"),
        ({}, None),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_control_mode_of_composite_controllers_is_that_of_the_arms(tmp_path, arms, mode, nested):
    parts = {side: {"type": kind, "input_type": input} for side, (kind, input) in arms.items()}
    for arm in parts.values():
        if arm["input_type"] is None:
            del arm["input_type"]
    parts = {"arms": parts} if nested else {**parts, "torso": {"type": "JOINT_POSITION"}}
    settings = {"controller_configs": {"type": "BASIC", "body_parts": parts}}
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": settings})
        assert control_mode(data) == mode


def test_arms_of_differing_control_modes_are_refused(tmp_path):
    parts = {"right": {"type": "OSC_POSE"}, "left": {"type": "OSC_POSE", "input_type": "absolute"}}
    settings = {"controller_configs": {"type": "BASIC", "body_parts": parts}}
    with h5py.File(tmp_path / "two_arms.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": settings})
        with pytest.raises(
            ValueError, match=r"two_arms.hdf5: expected one control .*'left': 'osc_pose'"
        ):
            control_mode(data)


def test_files_without_observations_name_the_tool_to_run(tmp_path):
    with h5py.File(tmp_path / "raw.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 7))
        file["data/demo_0/states"] = np.zeros((3, 10))
    with pytest.raises(ValueError, match="dataset_states_to_obs"):
        _ = open_demos(str(tmp_path / "raw.hdf5")).spec


def test_datamodule_reads_libero_files(official):
    data = RobotDemos([official()], VIEWS, STATE, horizon=3, num_workers=0, val_fraction=0.0)
    batch = next(iter(data.train_dataloader()))
    assert batch["images"]["agentview"].shape[1:] == (3, SIDE, SIDE)
    assert batch["state"].shape[1:] == (8,)
    np.testing.assert_allclose(batch["actions"][:, 0, 0] * 1000, batch["state"][:, 0], rtol=1e-5)
    assert batch["intrinsics"]["agentview"].shape[1:] == (3, 3)
