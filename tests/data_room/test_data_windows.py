import numpy as np
import pytest
import torch

from e0_lightning.data.chunk_dataset import ChunkDataset, Demo, require_horizon, split
from e0_lightning.data.formats.base import open_demos


def episodes(path, source=0, views=("cam",), state=("qpos",)):
    file = open_demos(str(path), views, state)
    return [Demo(file, *demo, instruction="go", source=source) for demo in file.demos()]


def test_every_step_of_every_episode_starts_a_window(record):
    windows = ChunkDataset(episodes(record(steps=(7, 12, 5))), horizon=4)
    assert len(windows) == 24
    batch = windows.__getitems__([0, 6, 7, 18, 19, 23])
    starts = [[0, 0], [0, 6], [1, 0], [1, 11], [2, 0], [2, 4]]
    assert batch["state"].tolist() == starts
    assert batch["actions"][:, 0, :2].tolist() == starts
    assert batch["images"]["cam"][:, :2, 0, 0].tolist() == starts
    assert batch["instruction"] == ["go"] * 6


def test_windows_past_the_end_repeat_the_last_action_and_are_not_valid(record):
    batch = ChunkDataset(episodes(record(steps=(7,))), horizon=4)[5]
    assert batch["actions"][0, :, 1].tolist() == [5, 6, 6, 6]
    assert batch["valid"][0].tolist() == [True, True, False, False]


def test_the_horizon_may_be_as_long_as_the_longest_episode_only(record):
    held = episodes(record(steps=(7, 5)))
    require_horizon(held, 7)
    assert ChunkDataset(held, horizon=7)[0]["valid"].all()
    with pytest.raises(
        ValueError, match=r"horizon: found 8, but .* 7 steps \(traj_0 of .*demos\.h5\)"
    ):
        require_horizon(held, 8)


def test_a_source_that_is_drawn_more_often_counts_for_more_in_statistics(record):
    few, many = (record("few.h5", steps=(4,)), record("many.h5", steps=(7, 12, 5), first=1))
    windows = ChunkDataset([*episodes(few), *episodes(many, source=1)], horizon=2)
    # The few have 4 of the 28 windows.
    for shares in ([3.0, 4.0], [1.0, 1.0], [1.0, 27.0], [1.0, 6.0]):
        starts = torch.cat([actions[:, 0, 0] for actions, *_ in windows.action_windows(shares)])
        assert len(starts) == 28
        assert int((starts == 0).sum()) == round(28 * shares[0] / sum(shares))
    assert len(list(windows.action_windows())) == 4


def test_a_camera_that_only_some_files_know_is_named(record):
    import h5py

    known, unknown = record("a.h5"), record("b.h5")
    with h5py.File(unknown, "a") as file:
        for name in file:
            del file[f"{name}/obs/sensor_param"]
    with pytest.warns(UserWarning, match=r"b.h5 does not tell the camera matrix of view 'cam'"):
        windows = ChunkDataset([*episodes(known), *episodes(unknown)], horizon=2)
    assert "intrinsics" not in windows[0]


def test_images_of_a_real_recording_arrive_untouched(real):
    windows = ChunkDataset(episodes(real, views=["base_camera"], state=["qpos"]), horizon=3)
    file = open_demos(str(real), ["base_camera"], ["qpos"])
    whole = np.concatenate(
        [file.images(d.name, 0, d.steps)["base_camera"] for d in file.demos()]
    ).transpose(0, 3, 1, 2)
    order = np.random.default_rng(0).permutation(len(windows))
    batch = windows.__getitems__(order.tolist())
    assert batch["images"]["base_camera"].shape == (128, 3, 128, 128)
    assert torch.equal(batch["images"]["base_camera"], torch.from_numpy(whole[order]))
    assert batch["intrinsics"]["base_camera"].shape == (128, 3, 3)


def test_indexing_reads_no_image(record, monkeypatch):
    from e0_lightning.data.formats.maniskill import ManiSkillReader

    def forbidden(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr(ManiSkillReader, "images", forbidden)
    windows = ChunkDataset(episodes(record()), horizon=4)
    assert sum(len(actions) for actions, _, _ in windows.action_windows()) == 24


def test_action_windows_equal_the_batches(record):
    windows = ChunkDataset(episodes(record()), horizon=4)
    actions, state, valid = (
        torch.cat(parts) for parts in zip(*windows.action_windows(), strict=True)
    )
    batch = windows.__getitems__(range(len(windows)))
    assert torch.equal(actions, batch["actions"])
    assert torch.equal(state, batch["state"])
    assert torch.equal(valid, batch["valid"])


def test_blocks_follow_the_chunks_of_each_recording(real):
    blocks = ChunkDataset(episodes(real, views=["base_camera"]), horizon=3).blocks()
    assert blocks.size.tolist() == [17, 17, 17, 14, 16, 16, 16, 15]
    assert blocks.first.tolist() == [0, 17, 34, 51, 65, 81, 97, 113]


def test_memory_holds_a_bounded_number_of_blocks(record):
    windows = ChunkDataset(episodes(record(steps=(40, 40), chunk=2)), horizon=4)
    windows.pool = 4
    for step in range(len(windows)):
        windows[step]
    assert len(windows._cache) == 6


def test_split_is_by_episode_and_always_the_same(record):
    whole = episodes(record(steps=(5,) * 10))
    training, held = split(whole, val_fraction=0.2)
    assert (len(training), len(held)) == (8, 2)
    assert {e.name for e in training}.isdisjoint({e.name for e in held})
    assert split(whole, val_fraction=0.2) == (training, held)


def test_split_takes_its_share_of_every_source(record):
    few, many = record("few.h5", steps=(5,) * 2), record("many.h5", steps=(5,) * 20)
    _, held = split([*episodes(few), *episodes(many, source=1)], val_fraction=0.1)
    assert [episode.source for episode in held] == [0, 1, 1]


def test_split_refuses_to_leave_nothing_for_training(record):
    with pytest.raises(ValueError, match=r"demos\.h5: validation 0.05 takes 1 of 1 episodes"):
        split(episodes(record(steps=(5,))), val_fraction=0.05)


def test_no_file_is_left_open_for_workers_to_inherit(record):
    held = episodes(record())
    windows = ChunkDataset(held, horizon=4)
    assert len(list(windows.action_windows())) == 3
    assert held[0].file._file is None
