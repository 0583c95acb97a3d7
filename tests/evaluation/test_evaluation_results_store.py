import json
from dataclasses import replace

import fsspec
import pytest
import torch

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.results_store import (
    FolderLock,
    ResultsStore,
    fingerprint,
    key,
    to_result,
    training_step,
)
from e0_lightning.types import EpisodeResult

METADATA = {"max_steps": {"push": 9}, "n_action_steps": 4, "versions": {"simulator": "1"}}
EPISODES = [EvalEpisode("push", seed, 9) for seed in range(4)]
RESULTS = [EpisodeResult("push", seed, seed < 2, 5 + seed) for seed in range(2)]
RESULTS.append(EpisodeResult("push", 2, False, 7, score=0.5, flags={"left": True}))


def finished(path, metadata=METADATA, checkpoint="hash", policy=None):
    store = ResultsStore(path, checkpoint, policy)
    store.load()
    return list(store.finished(EPISODES, metadata).values())


@pytest.fixture
def path(tmp_path):
    store = ResultsStore(tmp_path / "episodes.jsonl", "hash")
    for result in RESULTS:
        store.add(result, METADATA)
    store.add(EpisodeResult("push", 3, False, 1, error="gone"), METADATA)
    return store.path


def test_finished_episodes_are_stored_but_not_errors(path):
    assert finished(path) == RESULTS


@pytest.mark.parametrize(
    "change",
    [
        {"n_action_steps": 5},
        {"max_steps": {"push": 10}},
        {"versions": {"simulator": "2"}},
        {"instructions": {"push": "pull"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_results_under_other_conditions_are_ignored(path, change):
    assert finished(path, {**METADATA, **change}) == []


def test_results_of_other_policies_are_ignored(path):
    assert finished(path, checkpoint="another") == []
    assert finished(path, policy={"sampler": "another"}) == []
    assert finished(path, checkpoint=None) == []


def test_other_tasks_and_the_number_of_environments_are_no_conditions(path):
    metadata = {**METADATA, "max_steps": {"push": 9, "pull": 20}, "num_envs": 8}
    assert finished(path, metadata) == RESULTS


@pytest.mark.parametrize(
    "line",
    [
        b'{"task": "push", "seed"',
        b"7\n",
        b"null\n",
        b'{"condition_hash": "x"}\n',
        b'{"condition_hash": "x", "task": 1, "seed": 2, "success": 1, "steps": 3}\n',
        b"\xff\xfe\x00\n",
        b"[" * 100_000 + b"\n",
        b"\n",
    ],
    ids=["torn", "number", "null", "fields", "types", "binary", "nested", "empty"],
)
def test_a_torn_or_foreign_line_loses_no_other_episode(path, line):
    with path.open("ab") as file:
        file.write(line)
    later = EpisodeResult("push", 3, True, 8)
    ResultsStore(path, "hash").add(later, METADATA)
    with pytest.warns(UserWarning, match="1 of 6 lines are not complete results"):
        assert finished(path) == [*RESULTS, later]


def test_videos_are_stored_relative_to_the_folder(tmp_path):
    video = tmp_path / "one" / "videos" / "push_success.mp4"
    video.parent.mkdir(parents=True)
    store = ResultsStore(tmp_path / "one" / "episodes.jsonl", "hash")
    store.add(replace(RESULTS[0], video=str(video)), METADATA)
    assert json.loads(store.path.read_text())["video"] == "videos/push_success.mp4"
    (tmp_path / "one").rename(tmp_path / "moved")
    (result,) = finished(tmp_path / "moved" / "episodes.jsonl")
    assert result.video == str(tmp_path / "moved" / "videos" / "push_success.mp4")


def test_a_locked_folder_is_refused_until_it_is_released(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(RuntimeError, match=r"running `lightning test` has locked.*another folder"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_episodes_differ_by_task_seed_and_camera():
    fixed, moved = (EvalEpisode("push", 1, 9, camera=camera) for camera in ((0, 0, 0), (5, 0, 0)))
    assert key(fixed) != key(moved)
    assert key(fixed) == key(EpisodeResult("push", 1, True, 3))


def test_a_result_with_a_wrong_type_is_refused():
    with pytest.raises(ValueError, match="expected steps of type int"):
        to_result({"task": "push", "seed": 1, "success": True, "steps": "3"})
    with pytest.raises(ValueError, match="expected the fields of an episode result"):
        to_result({"task": "push"})


def test_fingerprints_depend_on_the_content(tmp_path):
    (tmp_path / "shards").mkdir()
    for name, content in (("a", "1"), ("b", "1"), ("c", "2"), ("shards/0", "1")):
        (tmp_path / name).write_text(content)
    one, same, other, shards = (fingerprint(tmp_path / each) for each in ("a", "b", "c", "shards"))
    assert one == same == shards != other


def test_fingerprints_of_remote_files_depend_on_the_content(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2")):
        with fsspec.open(f"memory://checkpoints/{name}", "wb") as file:
            file.write(content)
    one, other = (fingerprint(f"memory://checkpoints/{name}") for name in ("a", "b"))
    assert one != other
    (tmp_path / "local").write_bytes(b"1")
    assert fingerprint(tmp_path / "local") == one
    with pytest.raises(FileNotFoundError, match=r"nowhere.ckpt: expected a checkpoint"):
        fingerprint(tmp_path / "nowhere.ckpt")


def test_the_training_step_is_read_from_a_checkpoint(tmp_path):
    torch.save({"global_step": 1200, "state_dict": {"a": torch.ones(3)}}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_text("no checkpoint")
    assert training_step(tmp_path / "a.ckpt") == 1200
    assert training_step(tmp_path / "b.ckpt") is None
    assert training_step("memory://checkpoints/a") is None
