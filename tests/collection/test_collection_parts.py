import json
import os
from itertools import islice
from pathlib import Path

import h5py
import pytest

from e0_lightning.collection.episode_store import EpisodeStore

HEAD = {"env_info": {"env_id": "PushCube-v1"}, "commit_info": None}


@pytest.fixture
def parts(tmp_path):
    parts = EpisodeStore(tmp_path / "push.h5")
    yield parts
    parts.close()


def demonstrate(parts, seed, success=True):
    """What a worker leaves behind: a file with one trajectory, in which the seed can be found."""
    source = parts.folder / "demonstration.h5"
    if success:
        with h5py.File(source, "w") as file:
            file["traj_0/actions"] = [[float(seed)]]
    episode = {"episode_id": 0, "episode_seed": seed, "success": True}
    failed = {"env_info": {"env_id": "the planner's"}, "episodes": [], "failure": "no path"}
    parts.add(seed, source, {**HEAD, "episodes": [episode]} if success else failed)


def stored(out):
    """Seeds as the sidecar tells them and as the trajectories do, in the order of the sidecar."""
    sidecar = json.loads(out.with_suffix(".json").read_text())
    with h5py.File(out) as file:
        assert len(file) == len(sidecar["episodes"])
        told = [episode["episode_seed"] for episode in sidecar["episodes"]]
        held = [file[f"traj_{e['episode_id']}/actions"][0, 0] for e in sidecar["episodes"]]
    assert told == held
    return told


def test_episodes_are_published_in_the_order_of_their_seeds(parts):
    for seed in (10, 2, 1):
        demonstrate(parts, seed)
    demonstrate(parts, 0, success=False)
    assert parts.publish() == 3
    assert stored(parts.out) == [1, 2, 10]
    sidecar = json.loads(parts.sidecar.read_text())
    assert sidecar["env_info"] == HEAD["env_info"]
    assert "failure" not in sidecar


def test_nothing_reads_as_complete_before_it_is(parts):
    demonstrate(parts, 0)
    assert not parts.out.exists()
    assert not parts.sidecar.exists()


def test_a_death_during_publication_leaves_all_for_the_next_call(parts, monkeypatch):
    for seed in (0, 1):
        demonstrate(parts, seed)
    parts.publish()
    demonstrate(parts, 2)

    class Death(Exception):
        pass

    def die_before_the_file(source, target):
        if Path(target) == parts.out:
            raise Death
        os.rename(source, target)

    monkeypatch.setattr("os.replace", die_before_the_file)
    with pytest.raises(Death):
        parts.publish()
    monkeypatch.undo()
    assert list(parts.finished()) == [0, 1, 2]
    parts.publish()
    assert stored(parts.out) == [0, 1, 2]


def test_a_published_file_is_extended(tmp_path):
    first = EpisodeStore(tmp_path / "push.h5")
    demonstrate(first, 0, success=False)
    demonstrate(first, 1)
    assert list(islice(first.untried(), 2)) == [2, 3]
    first.publish()
    first.clear()
    first.close()
    second = EpisodeStore(tmp_path / "push.h5")
    # What failed below 1 would fail again.
    assert list(islice(second.untried(), 2)) == [2, 3]
    demonstrate(second, 2)
    second.publish()
    second.close()
    assert stored(tmp_path / "push.h5") == [1, 2]


def test_what_was_unfinished_at_a_death_is_swept_away(tmp_path):
    left = tmp_path / "push.h5.parts" / "unfinished_abc"
    left.mkdir(parents=True)
    (left / "plan.h5").write_bytes(b"half")
    parts = EpisodeStore(tmp_path / "push.h5")
    assert parts.finished() == {}
    assert not left.exists()
    parts.close()


def test_two_collections_do_not_write_one_file(parts):
    with pytest.raises(ValueError, match="another collection is writing to it"):
        EpisodeStore(parts.out)


def test_a_file_without_its_sidecar_is_refused(parts):
    parts.out.write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no sidecar push\.json"):
        parts.finished()


def test_a_truncated_file_is_refused(parts):
    demonstrate(parts, 0)
    parts.publish()
    parts.out.write_bytes(parts.out.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable HDF5 file"):
        parts.finished()


def test_the_file_must_be_named_as_one(tmp_path):
    with pytest.raises(ValueError, match=r"name a file that ends in \.h5"):
        EpisodeStore(tmp_path / "push.hdf5")
