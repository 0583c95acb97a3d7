import h5py
import numpy as np
import pytest

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.types import ViewSize
from pusht_recording import record, write

pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: pip install '.[pusht]'")

STATE = ["agent_pos", "block_keypoints"]


@pytest.fixture(scope="module")
def demos():
    return [record(steps=24, seed=seed) for seed in (0, 1)]


@pytest.fixture
def path(demos, tmp_path):
    return str(write(tmp_path / "pusht.hdf5", demos))


def test_a_recording_is_detected_with_its_spec(path):
    reader = open_demos(path)
    assert reader.format == "PushT"
    assert reader.spec.views == {"top": ViewSize(96, 96)}
    assert reader.spec.state == {"agent_pos": 2, "block_pose": 3, "block_keypoints": 16}
    assert (reader.spec.action_dim, reader.spec.control_mode) == (2, "point_position")
    assert [(demo.name, demo.steps) for demo in reader.demos()] == [("demo_0", 24), ("demo_1", 24)]
    assert reader.instruction("demo_0") == "push the T"


def test_keypoints_are_gym_pushts(path, demos):
    states = open_demos(path, [], STATE).states("demo_1", 3, 24)
    np.testing.assert_allclose(states[:, 2:], demos[1]["keypoints"][3:], rtol=1e-5)
    np.testing.assert_array_equal(states[:, :2], demos[1]["agent_pos"][3:])


def test_actions_and_frames_are_the_recorded_ones(path, demos):
    reader = open_demos(path)
    np.testing.assert_array_equal(reader.actions("demo_0", 2, 9), demos[0]["actions"][2:9])
    frames = reader.images("demo_0", 2, 9)["top"]
    np.testing.assert_array_equal(frames, demos[0]["top_image"][2:9])


def test_a_policy_of_states_reads_no_frame(path):
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            del demo["obs/top_image"]
    data = RobotDemos([path], [], STATE, horizon=8, batch_size=4, num_workers=0, val_fraction=0)
    batch = next(iter(data.train_dataloader()))
    assert batch["images"] == {}
    assert (tuple(batch["state"].shape), tuple(batch["actions"].shape)) == ((4, 18), (4, 8, 2))


@pytest.mark.parametrize(
    ("key", "message"),
    [("actions", "expected a data set, got nothing"), ("obs/top_image", "got nothing")],
)
def test_a_missing_part_is_named(path, key, message):
    with h5py.File(path, "a") as file:
        del file[f"data/demo_1/{key}"]
    with pytest.raises(ValueError, match=f"data/demo_1/{key}: expected a data set, got nothing"):
        open_demos(path).demos()


def test_parts_of_other_lengths_or_shapes_are_refused(path):
    with h5py.File(path, "a") as file:
        group = file["data/demo_1/obs"]
        pose = group["block_pose"][()]
        del group["block_pose"]
        group["block_pose"] = pose[1:]
    with pytest.raises(ValueError, match=r"block_pose: expected one .* 24 actions .* got 23"):
        open_demos(path).demos()
    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/block_pose"]
        file["data/demo_1/obs/block_pose"] = pose[:, :2]
    with pytest.raises(ValueError, match=r"expected \(T, 3\), got \(24, 2\)"):
        open_demos(path).demos()


def test_other_views_and_state_parts_are_refused(path):
    with pytest.raises(ValueError, match="expected the view 'top', got 'wrist'"):
        _ = open_demos(path, ["wrist"]).spec
    with pytest.raises(ValueError, match=r"among agent_pos, .* got 'goal'"):
        _ = open_demos(path, [], ["goal"]).spec
