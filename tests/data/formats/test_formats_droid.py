"""DROID: recordings with videos beside, and the converter's files with images."""

import numpy as np
import pytest

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.sources import DemoSource
from e0_lightning.types import ViewSize
from recorders import RED, write_droid

STATE = ["joint_position", "gripper_position"]
SERIALS = {
    "wrist_image_left": "22008760",
    "exterior_image_1_left": "24400334",
    "exterior_image_2_left": "26405488",
}


@pytest.mark.parametrize("images", [False, True], ids=["videos", "converted"])
def test_rows_without_movement_are_left_out_of_numbers_and_frames(tmp_path, images):
    path, recorded = write_droid(tmp_path, images=images)
    reader = open_demos(path, list(SERIALS), STATE)
    kept = np.flatnonzero(recorded["observation/controller_info/movement_enabled"])
    assert 0 < len(kept) < 20
    assert (reader.format, reader.lengths(), reader.rate) == ("droid", {"demo": len(kept)}, 15)
    joints = recorded["observation/robot_state/joint_positions"][kept]
    gripper = recorded["observation/robot_state/gripper_position"][kept, None]
    states = np.concatenate([joints, gripper], axis=1, dtype=np.float32)
    np.testing.assert_array_equal(reader.states("demo", 0, len(kept)), states)
    velocity, gripper = recorded["action/joint_velocity"], recorded["action/gripper_position"]
    actions = np.concatenate([velocity, gripper[:, None]], axis=1, dtype=np.float32)[kept]
    np.testing.assert_array_equal(reader.actions("demo", 0, len(kept)), actions)
    read = reader.images("demo", 4, 9)
    for view, serial in SERIALS.items():
        expected = recorded["frames"][serial][kept[4:9]].astype(int)
        assert np.abs(read[view] - expected).mean() < (3 if not images else 1e-9)
        np.testing.assert_allclose(read[view][0, 8, 8], RED, atol=8)


def test_instruction_and_control_mode_are_droids(tmp_path):
    reader = open_demos(write_droid(tmp_path)[0])
    assert reader.instruction("demo") == "Put the marker in the pot"
    assert reader.spec.control_mode == "joint_velocity"
    assert reader.spec.views == dict.fromkeys(SERIALS, ViewSize(48, 64))
    assert reader.spec.state == {"joint_position": 7, "gripper_position": 1}


def test_failures_are_left_out_and_episodes_train(tmp_path):
    for number, success in enumerate((True, False, True)):
        folder = tmp_path / ("success" if success else "failure") / f"episode_{number}"
        write_droid(folder, success=success, seed=number)
    source = DemoSource(str(tmp_path / "**/trajectory.h5"))
    sizes = {"wrist_image_left": ViewSize(24, 32)}
    demos = RobotDemos([source], sizes, STATE, 3, batch_size=4, num_workers=0, val_fraction=0)
    demos.setup("fit")
    assert len(demos.datasets[0].demos) == 2
    batch = next(iter(demos.train_dataloader()))
    assert batch["images"]["wrist_image_left"].shape == (4, 3, 24, 32)
    assert batch["actions"].shape == (4, 3, 8)
    with pytest.raises(ValueError, match=r"a demonstration that succeeded, got 1 failures"):
        open_demos(str(tmp_path / "failure/episode_1/trajectory.h5")).lengths()


def test_a_missing_video_is_named(tmp_path):
    path, _ = write_droid(tmp_path)
    (tmp_path / "recordings/MP4/24400334.mp4").unlink()
    with pytest.raises(ValueError, match=r"recordings/MP4/24400334\.mp4: no such video"):
        open_demos(path, ["exterior_image_1_left"], STATE).lengths()
