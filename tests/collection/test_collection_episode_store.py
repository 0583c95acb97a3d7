import json
import os
from itertools import islice
from pathlib import Path

import h5py
import pytest

from e0_lightning.collection.maniskill_episode_store import (
    SIDECAR_DATASET,
    ManiSkillEpisodeStore,
)

TASK, CONTROL_MODE = "PushCube-v1", "pd_joint_pos"
ENV_INFO = {"env_id": TASK, "env_kwargs": {"control_mode": CONTROL_MODE, "sensor_configs": {}}}


def open_store(out, task=TASK, control_mode=CONTROL_MODE, image_size=None):
    return ManiSkillEpisodeStore(out, task, control_mode, image_size)


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "push.h5")
    yield store
    store.close()


def add_episode(store, seed):
    """Add the file of a worker: one trajectory whose only action is the seed."""
    source = store.folder / "unfinished.h5"
    episode = {"episode_id": 0, "episode_seed": seed, "success": True}
    with h5py.File(source, "w") as file:
        file["traj_0/actions"] = [[float(seed)]]
        file[SIDECAR_DATASET] = json.dumps({"env_info": ENV_INFO, "episodes": [episode]})
    store.add(seed, source)


def published_seeds(out):
    """Seeds in the order of the sidecar, after checking that the trajectories have the same."""
    sidecar = json.loads(out.with_suffix(".json").read_text())
    with h5py.File(out) as file:
        assert len(file) == len(sidecar["episodes"])
        listed = [episode["episode_seed"] for episode in sidecar["episodes"]]
        stored = [file[f"traj_{e['episode_id']}/actions"][0, 0] for e in sidecar["episodes"]]
    assert listed == stored
    return listed


def test_episodes_are_published_in_the_order_of_their_seeds(store):
    for seed in (10, 2, 1):
        add_episode(store, seed)
    store.add_failure(0, "no path")
    assert store.publish() == 3
    assert published_seeds(store.out) == [1, 2, 10]
    assert json.loads(store.sidecar.read_text())["env_info"] == ENV_INFO
    assert store.failed() == {0: "no path"}


def test_relative_output_is_found_from_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store(Path("data/push.h5"))
    monkeypatch.chdir("/")
    add_episode(store, 0)
    assert store.publish() == 1
    assert published_seeds(tmp_path / "data" / "push.h5") == [0]
    store.close()


def test_output_does_not_exist_before_publication(store):
    add_episode(store, 0)
    assert not store.out.exists()
    assert not store.sidecar.exists()


def test_interrupted_publication_is_repeated_without_loss(store, monkeypatch):
    for seed in (0, 1):
        add_episode(store, seed)
    store.publish()
    add_episode(store, 2)

    class Killed(Exception):
        pass

    def fail_before_the_hdf5_file(source, target):
        if Path(target) == store.out:
            raise Killed
        os.rename(source, target)

    monkeypatch.setattr("os.replace", fail_before_the_hdf5_file)
    with pytest.raises(Killed):
        store.publish()
    monkeypatch.undo()
    store.close()
    resumed = open_store(store.out)
    assert list(resumed.succeeded()) == [0, 1, 2]
    resumed.publish()
    resumed.close()
    assert published_seeds(store.out) == [0, 1, 2]


def test_published_file_is_extended_with_higher_seeds(tmp_path):
    first = open_store(tmp_path / "push.h5")
    first.add_failure(0, "no path")
    add_episode(first, 1)
    assert list(islice(first.untried(), 2)) == [2, 3]
    first.publish()
    first.clear()
    first.close()
    second = open_store(tmp_path / "push.h5")
    # Seed 0 failed, and would fail again.
    assert list(islice(second.untried(), 2)) == [2, 3]
    add_episode(second, 2)
    second.publish()
    second.close()
    assert published_seeds(tmp_path / "push.h5") == [1, 2]


def test_unfinished_files_of_a_killed_collection_are_removed(tmp_path):
    folder = tmp_path / "push.h5.parts"
    (folder / "unfinished_abc").mkdir(parents=True)
    (folder / "unfinished_abc" / "plan.h5").write_bytes(b"half")
    (folder / "unfinished_3.h5").write_bytes(b"half")
    store = open_store(tmp_path / "push.h5")
    assert store.succeeded() == {}
    assert not list(folder.glob("unfinished_*"))
    store.close()


def test_folder_is_removed_if_no_seed_was_tried(tmp_path):
    open_store(tmp_path / "push.h5").close()
    assert not list(tmp_path.iterdir())


def test_second_collection_of_the_same_file_is_refused(store):
    with pytest.raises(ValueError, match="another collection is writing to it"):
        open_store(store.out)


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "PickCube-v1"}, "with task PickCube-v1, got PushCube-v1"),
        ({"control_mode": "pd_ee_delta_pose"}, "control_mode pd_ee_delta_pose, got pd_joint_pos"),
        ({"image_size": 64}, "image_size 64, got None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_episodes_of_two_configurations_are_not_mixed(store, published, change, message):
    add_episode(store, 0)
    if published:
        store.publish()
        store.clear()
    store.close()
    with pytest.raises(ValueError, match=message):
        open_store(store.out, **change)
    assert list(open_store(store.out).succeeded()) == [0]


def test_file_without_sidecar_is_refused(tmp_path):
    (tmp_path / "push.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a sidecar push\.json"):
        open_store(tmp_path / "push.h5")


def test_truncated_file_is_refused(store):
    add_episode(store, 0)
    store.publish()
    store.out.write_bytes(store.out.read_bytes()[:200])
    store.close()
    with pytest.raises(ValueError, match="expected a readable HDF5 file"):
        open_store(store.out)


def test_file_name_with_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file name that ends in \.h5"):
        open_store(tmp_path / "push.hdf5")
