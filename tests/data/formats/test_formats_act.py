"""Episodes of ACT, simulated and real, one a file."""

import h5py
import numpy as np
import pytest
import torch

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.sources import DemoSource
from e0_lightning.types import ViewSize
from recorders import write_act


def test_a_simulated_episode_is_read_as_it_was_recorded(tmp_path):
    path = str(tmp_path / "episode_0.hdf5")
    recorded = write_act(path)
    reader = open_demos(path)
    assert reader.format == "act"
    assert reader.spec.views == {"top": ViewSize(480, 640)}
    assert reader.spec.state == {"qpos": 14, "qvel": 14}
    assert (reader.spec.control_mode, reader.rate) == ("joint_position", 50)
    assert reader.demos() == [("demo", 6, 1)]
    states = np.hstack([recorded["/observations/qpos"], recorded["/observations/qvel"]])
    np.testing.assert_array_equal(reader.states("demo", 0, 6), states.astype(np.float32))
    actions = recorded["/action"].astype(np.float32)
    np.testing.assert_array_equal(reader.actions("demo", 0, 6), actions)
    images = reader.images("demo", 2, 5)["top"]
    np.testing.assert_array_equal(images, recorded["/observations/images/top"][2:5])


def test_real_observations_are_paired_with_the_action_before(tmp_path):
    """ACT's loader, of real robots: ``action[max(0, start - 1):]`` for observation ``start``."""
    path = str(tmp_path / "episode_0.hdf5")
    cameras = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    recorded = write_act(path, cameras=cameras, sim=False)
    reader = open_demos(path, ["cam_high"], ["qpos"])
    assert (reader.format, reader.lengths()) == ("aloha", {"demo": 5})
    for step in range(5):
        start = step + 1  # the first observation has no action before it
        action, state = (
            read("demo", step, step + 1)[0] for read in (reader.actions, reader.states)
        )
        np.testing.assert_array_equal(action, np.float32(recorded["/action"][max(0, start - 1)]))
        np.testing.assert_array_equal(state, np.float32(recorded["/observations/qpos"][start]))
    frames = recorded["/observations/images/cam_high"]
    np.testing.assert_array_equal(reader.images("demo", 0, 5)["cam_high"], frames[1:])


def test_a_folder_of_episodes_trains(tmp_path):
    actions = [
        write_act(tmp_path / f"episode_{i}.hdf5", seed=i)["/action"].astype(np.float32)
        for i in range(4)
    ]
    source = DemoSource(str(tmp_path / "episode_*.hdf5"), instruction="transfer the cube")
    size = ViewSize(30, 40)
    demos = RobotDemos([source], {"top": size}, ["qpos"], horizon=3, batch_size=5, val_fraction=0)
    demos.setup("fit")
    chunks = [chunk for chunk, _, _ in demos.action_chunks()]
    expected = np.concatenate(actions)
    np.testing.assert_array_equal(torch.cat(chunks)[:, 0], expected)
    batch = next(iter(demos.train_dataloader()))
    assert batch["images"]["top"].shape == (5, 3, 30, 40)
    assert batch["demo"][0].startswith("episode_")


def test_rows_that_are_missing_are_named(tmp_path):
    path = str(tmp_path / "episode_0.hdf5")
    write_act(path)
    with h5py.File(path, "a") as root:
        qpos = root["observations/qpos"][:4]
        del root["observations/qpos"]
        root["observations/qpos"] = qpos
    with pytest.raises(ValueError, match=r"observations/qpos: expected one row for each of the 6"):
        open_demos(path, ["top"], ["qpos"]).lengths()
