import json
from itertools import islice

import pytest

from e0_lightning.collection.aloha_episode_store import AlohaEpisodeStore

TASK = "AlohaTransferCube-v0"


@pytest.fixture
def store(tmp_path):
    store = AlohaEpisodeStore(tmp_path / "episodes", TASK)
    yield store
    store.close()


def add(store, seed):
    """Add the file of a worker, whose content is the seed."""
    source = store.folder / f"unfinished_{seed}.hdf5"
    source.write_text(str(seed))
    store.add(seed, source)


def reopened(store, task=TASK):
    """The store as the next process opens it."""
    store.close()
    return AlohaEpisodeStore(store.folder, task)


def test_episodes_are_numbered_as_they_finish_and_their_seeds_are_listed(store):
    for seed in (1, 0):
        add(store, seed)
    store.add_failure(2, "the cube fell")
    assert [(store.folder / f"episode_{n}.hdf5").read_text() for n in (0, 1)] == ["1", "0"]
    listed = json.loads((store.folder / "seeds.json").read_text())
    assert listed == {"task": TASK, "seeds": [1, 0], "failed": {"2": "the cube fell"}}


def test_a_later_collection_continues_with_untried_seeds(store):
    add(store, 0)
    store.add_failure(1, "the cube fell")
    (store.folder / "unfinished_2.hdf5").touch()
    resumed = reopened(store)
    assert list(islice(resumed.untried(), 2)) == [2, 3]
    assert not list(resumed.folder.glob("unfinished_*"))
    add(resumed, 2)
    assert (resumed.folder / "episode_1.hdf5").read_text() == "2"
    resumed.close()


def test_a_seed_that_was_listed_before_its_file_was_moved_is_tried_again(store):
    for seed in (0, 1):
        add(store, seed)
    (store.folder / "episode_1.hdf5").unlink()
    resumed = reopened(store)
    assert list(resumed.succeeded()) == [0]
    assert next(resumed.untried()) == 1
    resumed.close()


def test_episodes_of_another_task_or_origin_are_refused(store, tmp_path):
    add(store, 0)
    with pytest.raises(ValueError, match="expected demonstrations of AlohaInsertion-v0, got Aloha"):
        reopened(store, "AlohaInsertion-v0")
    (tmp_path / "episode_0.hdf5").touch()
    with pytest.raises(ValueError, match=r"expected the 0 episodes that seeds\.json lists, got 1"):
        AlohaEpisodeStore(tmp_path, TASK)


def test_two_collections_do_not_write_to_one_folder(store):
    with pytest.raises(ValueError, match="another collection is writing to it"):
        AlohaEpisodeStore(store.folder, TASK)
