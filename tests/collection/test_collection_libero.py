import shutil
from itertools import islice

import h5py
import numpy as np
import pytest

from e0_lightning.collection.libero import collect
from e0_lightning.collection.libero_episode_store import LiberoEpisodeStore
from e0_lightning.collection.libero_recorder import Demonstrator
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.envs import mujoco_gl
from e0_lightning.envs.libero_tasks import tasks
from e0_lightning.types import ViewSize

BUTTER = "libero_object/pick_up_the_butter_and_place_it_in_the_basket"


def write_episode(folder, seed):
    """Write the file of a worker."""
    path = folder / "episode.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        file["data"].attrs["problem_info"] = "{}"
        demo.attrs["seed"], demo.attrs["num_samples"] = seed, 4
        demo["actions"] = np.full((4, 7), seed, np.float64)
        demo["obs/agentview_rgb"] = np.zeros((4, 8, 8, 3), np.uint8)
    return path


@pytest.fixture
def store(tmp_path):
    store = LiberoEpisodeStore(tmp_path / "butter_demo.hdf5", 8, "default")
    yield store
    store.close()


def reopened(store):
    """The store as the next process opens it."""
    store.close()
    return LiberoEpisodeStore(store.out, 8, "default")


def test_episodes_survive_and_are_published_in_the_order_of_their_seeds(store, tmp_path):
    for seed in (11, 2):
        store.add(seed, write_episode(tmp_path, seed))
    store.add_failure(5, "the object fell")
    resumed = reopened(store)
    assert list(resumed.succeeded()) == [2, 11]
    assert resumed.failed() == {5: "the object fell"}
    assert resumed.publish() == 2
    with h5py.File(resumed.out) as file:
        assert [file[f"data/demo_{n}/actions"][0, 0] for n in (0, 1)] == [2, 11]
        assert (file["data"].attrs["num_demos"], file["data"].attrs["total"]) == (2, 8)
        assert file["data"].attrs["problem_info"] == "{}"


def test_published_file_is_extended(store, tmp_path):
    store.add(3, write_episode(tmp_path, 3))
    store.publish()
    store.clear()
    resumed = reopened(store)
    # Seeds below 3 failed, and would fail again.
    assert list(islice(resumed.untried(), 2)) == [4, 5]
    resumed.add(1, write_episode(tmp_path, 1))
    assert resumed.publish() == 2
    with h5py.File(resumed.out) as file:
        assert [file[f"data/demo_{n}"].attrs["seed"] for n in (0, 1)] == [1, 3]


@pytest.mark.parametrize("published", [True, False])
def test_images_of_two_sizes_or_qualities_are_not_mixed(store, tmp_path, published):
    store.add(3, write_episode(tmp_path, 3))
    if published:
        store.publish()
        store.clear()
    store.close()
    with pytest.raises(ValueError, match="expected demonstrations with image_size 16, got 8"):
        LiberoEpisodeStore(store.out, 16, "default")
    with pytest.raises(ValueError, match="with render_quality fast, got default"):
        LiberoEpisodeStore(store.out, 8, "fast")


def test_file_of_another_origin_is_refused(tmp_path):
    with h5py.File(tmp_path / "butter_demo.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 7))
    with pytest.raises(ValueError, match="expected a file written by `e0 collect libero`"):
        LiberoEpisodeStore(tmp_path / "butter_demo.hdf5", 8, "default")


@pytest.mark.parametrize("suite", ["libero_subject", ""])
def test_unknown_suite_is_refused(tmp_path, suite):
    with pytest.raises(ValueError, match="suite"):
        collect(suite, out=tmp_path)


@pytest.fixture(scope="module")
def collected(libero_assets, tmp_path_factory):
    out = tmp_path_factory.mktemp("libero")
    index = tasks("libero_object").index(BUTTER)
    file = collect("libero_object", out, [index], 2, 64, render_quality="fast", workers=1)[0]
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return file


def test_collected_file_is_read_like_an_official_one(collected):
    file = open_demos(str(collected), ["agentview"], ["ee_pos", "ee_ori", "gripper_states"])
    assert file.instruction("demo_0") == "pick up the butter and place it in the basket"
    assert file.spec.views == {"agentview": ViewSize(64, 64)}
    assert file.spec.render_quality == "fast"
    assert [demo.name for demo in file.demos()] == ["demo_0", "demo_1"]
    steps = file.demos()[0].steps
    gripper = file.states("demo_0", 0, steps)[:, 6]
    assert gripper[0] > 0.03  # open at the start
    assert gripper[-1] > 0.03  # open at the end: the object was released
    assert gripper.min() < 0.03
    focal_length = 32 / np.tan(np.deg2rad(45) / 2)
    intrinsics = file.intrinsics("demo_0")["agentview"]
    assert intrinsics[0, 0] == intrinsics[1, 1] == pytest.approx(focal_length)


def test_every_dataset_has_checksums(collected):
    with h5py.File(collected) as file:
        datasets = []
        file.visititems(lambda _, item: datasets.append(item) if hasattr(item, "shape") else None)
        assert datasets
        assert all(dataset.fletcher32 for dataset in datasets)


def test_recorded_actions_reproduce_the_recorded_poses_and_images(collected, libero_assets):
    with h5py.File(collected) as file:
        demo = file["data/demo_1"]
        demonstrator = Demonstrator(64, "fast", mujoco_gl.offscreen(), libero_assets.path)
        environment = demonstrator._environment(BUTTER)
        environment.reset_to_random_placement(int(demo.attrs["seed"]))
        np.testing.assert_array_equal(environment.control_env.get_sim_state(), demo["states"][0])
        for action, pose in zip(demo["actions"], demo["obs/ee_pos"], strict=True):
            observed, _, success, _ = environment.control_env.step(action)
            np.testing.assert_array_equal(observed["robot0_eef_pos"], pose)
        assert success
        # An environment with the spec of the demonstrations renders their images.
        frame = environment.render("agentview", 64, 64)[::-1]
        np.testing.assert_array_equal(frame, demo["obs/agentview_rgb"][-1])
        environment.close()


def test_interrupted_collection_resumes(collected, tmp_path):
    folder = tmp_path / "libero_object"
    parts = folder / f"{collected.name}.parts"
    (parts / "unfinished_killed").mkdir(parents=True)
    shutil.copy(collected, folder / collected.name)
    index = tasks("libero_object").index(BUTTER)
    collect("libero_object", tmp_path, [index], 3, 64, render_quality="fast", workers=1)
    with h5py.File(folder / collected.name) as file:
        assert [file[f"data/demo_{n}"].attrs["seed"] for n in range(3)] == [0, 1, 2]
    assert not parts.exists()
