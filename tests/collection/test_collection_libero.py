import shutil
from itertools import islice

import h5py
import numpy as np
import pytest

from e0_lightning.collection.libero import collect
from e0_lightning.collection.libero_episode_store import LiberoEpisodeStore
from e0_lightning.collection.libero_expert import wanted
from e0_lightning.collection.libero_recorder import Demonstrator
from e0_lightning.data.formats.base import open_demos
from e0_lightning.envs import mujoco_gl as rendering
from e0_lightning.envs.libero import tasks

BUTTER = "libero_object/pick_up_the_butter_and_place_it_in_the_basket"


def demonstration(folder, seed):
    """A finished demonstration, as a worker leaves it."""
    path = folder / "demonstration.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        file["data"].attrs["problem_info"] = "{}"
        demo.attrs["seed"], demo.attrs["num_samples"] = seed, 4
        demo["actions"] = np.full((4, 7), seed, np.float64)
        demo["obs/agentview_rgb"] = np.zeros((4, 8, 8, 3), np.uint8)
    return path


@pytest.fixture
def parts(tmp_path):
    return LiberoEpisodeStore(tmp_path / "butter_demo.hdf5")


def test_parts_survive_and_are_published_in_the_order_of_their_seeds(parts, tmp_path):
    for seed in (11, 2):
        parts.add(seed, demonstration(tmp_path, seed), "")
    parts.add(5, tmp_path / "demonstration.hdf5", "it fell")
    again = LiberoEpisodeStore(parts.out)  # as another process would find it
    assert list(again.succeeded()) == [2, 11]
    assert again.failed() == {5: "it fell"}
    assert again.publish() == 2
    with h5py.File(parts.out) as file:
        assert [file[f"data/demo_{n}/actions"][0, 0] for n in (0, 1)] == [2, 11]
        assert (file["data"].attrs["num_demos"], file["data"].attrs["total"]) == (2, 8)
        assert file["data"].attrs["problem_info"] == "{}"


def test_a_published_file_is_extended(parts, tmp_path):
    parts.add(3, demonstration(tmp_path, 3), "")
    parts.publish()
    parts.clear()
    again = LiberoEpisodeStore(parts.out)
    # What failed below 3 would fail again.
    assert list(islice(again.untried(), 2)) == [4, 5]
    again.add(1, demonstration(tmp_path, 1), "")
    assert again.publish() == 2
    with h5py.File(parts.out) as file:
        assert [file[f"data/demo_{n}"].attrs["seed"] for n in (0, 1)] == [1, 3]


@pytest.mark.parametrize("published", [True, False])
def test_images_of_two_sizes_are_not_mixed(parts, tmp_path, published):
    parts.add(3, demonstration(tmp_path, 3), "")
    if published:
        parts.publish()
        parts.clear()
    again = LiberoEpisodeStore(parts.out)
    again.require_size(8)
    with pytest.raises(ValueError, match=r"hdf5 holds .* image size 8, and 16 is asked for"):
        again.require_size(16)


def test_a_file_of_someone_else_is_left_alone(tmp_path):
    with h5py.File(tmp_path / "butter_demo.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 7))
    with pytest.raises(ValueError, match="did not write"):
        LiberoEpisodeStore(tmp_path / "butter_demo.hdf5")


class World:
    """A task with the goals given."""

    def __init__(self, *goals):
        self.env = self
        self.parsed_problem = {"goal_state": goals}


def test_the_expert_knows_what_it_can_do():
    assert wanted(World(["In", "butter_1", "basket_1_region"])) == ("butter_1", "basket_1_region")
    with pytest.raises(ValueError, match=r"this task wants: Open drawer_1$"):
        wanted(World(["Open", "drawer_1"]))
    with pytest.raises(ValueError, match="On a b and On c d"):
        wanted(World(["On", "a", "b"], ["On", "c", "d"]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"suite": "libero_subject"}, "no suite"), ({"suite": ""}, "no suite")],
    ids=["name", "empty"],
)
def test_a_suite_that_does_not_exist_is_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        collect(**wrong, out=tmp_path)


@pytest.fixture(scope="module")
def collected(libero_assets, tmp_path_factory):
    out = tmp_path_factory.mktemp("libero")
    place = tasks("libero_object").index(BUTTER)
    file = collect("libero_object", out, [place], episodes=2, image_size=64, workers=1)[0]
    assert sorted(path.name for path in file.parent.iterdir()) == [".lock", file.name]
    return file


def test_demonstrations_are_read_like_official_ones(collected):
    file = open_demos(str(collected), ["agentview"], ["ee_pos", "ee_ori", "gripper_states"])
    assert file.layout.dialect == "LIBERO"  # recorded after the action, and found to be so
    assert file.instruction("demo_0") == "pick up the butter and place it in the basket"
    assert file.spec.views == {"agentview": 64}
    assert [demo.name for demo in file.demos()] == ["demo_0", "demo_1"]
    steps = file.demos()[0].steps
    gripper = file.states("demo_0", 0, steps)[:, 6]
    assert gripper[0] > 0.03  # begins open
    assert gripper[-1] > 0.03  # ends open: the object was let go
    assert gripper.min() < 0.03
    cameras = file.cameras("demo_0")
    assert cameras["agentview"].field == pytest.approx(45)


def test_the_recorded_actions_lead_to_the_recorded_poses(collected, libero_assets):
    with h5py.File(collected) as file:
        demo = file["data/demo_1"]
        stage = Demonstrator(64, rendering.offscreen(), libero_assets.path)
        environment = stage._of(BUTTER)
        environment.scatter(int(demo.attrs["seed"]))
        np.testing.assert_array_equal(environment.world.get_sim_state(), demo["states"][0])
        for action, pose in zip(demo["actions"], demo["obs/ee_pos"], strict=True):
            seen, _, success, _ = environment.world.step(action)
            np.testing.assert_array_equal(seen["robot0_eef_pos"], pose)
        assert success
        environment.close()


def test_an_interrupted_collection_goes_on(collected, tmp_path):
    """One demonstration is there, the folder of a dead worker too; one more is wanted."""
    folder = tmp_path / "libero_object"
    folder.mkdir()
    (folder / "unfinished_dead").mkdir()
    shutil.copy(collected, folder / collected.name)
    place = tasks("libero_object").index(BUTTER)
    collect("libero_object", tmp_path, [place], episodes=3, image_size=64, workers=1)
    with h5py.File(folder / collected.name) as file:
        assert [file[f"data/demo_{n}"].attrs["seed"] for n in range(3)] == [0, 1, 2]
    assert not list(folder.glob("*.parts")) + list(folder.glob("unfinished_*"))
