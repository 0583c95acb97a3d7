import shutil

import h5py
import numpy as np
import pytest

from e0_lightning.cli.e0_cli import e0
from e0_lightning.collection.pusht import collect
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.formats.robomimic import RobomimicReader
from pusht_recording import record

pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: pip install '.[pusht]'")
zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install '.[pusht]'")


@pytest.fixture(scope="module")
def demos():
    return [record(steps, seed=steps) for steps in (5, 9)]


@pytest.fixture(scope="module")
def published(demos, tmp_path_factory):
    """A recording in the layout of the published one, in which numbers are all floats."""
    path = tmp_path_factory.mktemp("published") / "pusht_cchi_v7_replay.zarr"
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    joined = {name: np.concatenate([demo[name] for demo in demos]) for name in demos[0]}
    state = np.concatenate([joined["agent_pos"], joined["block_pose"]], axis=1)
    root["data/state"], root["data/action"] = state, joined["actions"]
    root["data/img"] = joined["top_image"].astype(np.float32)
    root["meta/episode_ends"] = np.array([5, 14])
    return path


def test_demonstrations_are_converted_without_loss(published, demos, tmp_path):
    out = tmp_path / "new" / "pusht.hdf5"
    e0(["collect", "pusht", "--source", str(published), "--out", str(out)])
    reader = open_demos(str(out))
    assert [(demo.name, demo.steps) for demo in reader.demos()] == [("demo_0", 5), ("demo_1", 9)]
    for index, demo in enumerate(demos):
        name, steps = f"demo_{index}", len(demo["actions"])
        np.testing.assert_array_equal(reader.actions(name, 0, steps), demo["actions"])
        state = np.concatenate([demo["agent_pos"], demo["block_pose"]], axis=1)
        np.testing.assert_array_equal(reader.states(name, 0, steps)[:, :5], state)
        np.testing.assert_array_equal(reader.images(name, 0, steps)["top"], demo["top_image"])
    assert list(out.parent.iterdir()) == [out]


def test_tools_of_robomimic_know_the_file(published, tmp_path):
    out = collect(published, tmp_path / "pusht.hdf5")
    reader = RobomimicReader(str(out))
    assert reader.spec == open_demos(str(out), state=["agent_pos", "block_pose"]).spec
    with h5py.File(out) as file:
        assert file["data"].attrs["total"] == 14
        assert file["data/demo_1"].attrs["num_samples"] == 9
        assert file["data/demo_1/obs/top_image"].chunks == (1, 96, 96, 3)


def test_an_existing_file_is_kept(published, tmp_path):
    (tmp_path / "pusht.hdf5").write_text("mine")
    with pytest.raises(ValueError, match="expected a new file"):
        collect(published, tmp_path / "pusht.hdf5")
    assert (tmp_path / "pusht.hdf5").read_text() == "mine"


def test_other_sources_are_refused(published, tmp_path):
    with pytest.raises(ValueError, match=r"pusht.zip: expected the folder .* Unpack"):
        collect(tmp_path / "pusht.zip", tmp_path / "pusht.hdf5")
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(published, damaged)
    shutil.rmtree(damaged / "data" / "state")
    with pytest.raises(ValueError, match="got none with data/state"):
        collect(damaged, tmp_path / "pusht.hdf5")
    zarr.open_group(str(damaged), mode="a")["data/state"] = np.zeros((3, 5))
    with pytest.raises(ValueError, match=r"data of 14 steps .* got data of \[3, 14\] steps"):
        collect(damaged, tmp_path / "pusht.hdf5")
