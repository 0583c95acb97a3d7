import numpy as np
import pytest
import torch

from e0_lightning.data.chunk_dataset import ChunkDataset
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.samples import Demo
from e0_lightning.data.split import check_horizon, split


def read_demos(path, source=0, views=("cam",), state=("qpos",)):
    reader = open_demos(str(path), views, state)
    return [Demo(reader, *demo, instruction="go", source=source) for demo in reader.demos()]


def test_every_step_of_every_demo_is_a_sample(record):
    dataset = ChunkDataset(read_demos(record(steps=(7, 12, 5))), horizon=4)
    assert len(dataset) == 24
    batch = dataset.__getitems__([0, 6, 7, 18, 19, 23])
    starts = [[0, 0], [0, 6], [1, 0], [1, 11], [2, 0], [2, 4]]
    assert batch["state"].tolist() == starts
    assert batch["actions"][:, 0, :2].tolist() == starts
    assert batch["images"]["cam"][:, :2, 0, 0].tolist() == starts
    assert batch["instruction"] == ["go"] * 6


def test_chunks_past_the_end_repeat_the_last_action(record):
    batch = ChunkDataset(read_demos(record(steps=(7,))), horizon=4)[5]
    assert batch["actions"][0, :, 1].tolist() == [5, 6, 6, 6]
    assert batch["valid"][0].tolist() == [True, True, False, False]


def test_the_horizon_may_be_as_long_as_the_longest_demo_only(record):
    held = read_demos(record(steps=(7, 5)))
    check_horizon(held, 7)
    assert ChunkDataset(held, horizon=7)[0]["valid"].all()
    with pytest.raises(
        ValueError, match=r"horizon: expected 1 to 7, .*\(traj_0 of .*demos\.h5\), got 8"
    ):
        check_horizon(held, 8)


def test_weighted_sources_are_repeated_in_action_chunks(record):
    few, many = (record("few.h5", steps=(4,)), record("many.h5", steps=(7, 12, 5), first=1))
    dataset = ChunkDataset([*read_demos(few), *read_demos(many, source=1)], horizon=2)
    # The few have 4 of the 28 dataset.
    for weights in ([3.0, 4.0], [1.0, 1.0], [1.0, 27.0], [1.0, 6.0]):
        starts = torch.cat([actions[:, 0, 0] for actions, *_ in dataset.action_chunks(weights)])
        assert len(starts) == 28
        assert int((starts == 0).sum()) == round(28 * weights[0] / sum(weights))
    assert len(list(dataset.action_chunks())) == 4


def test_a_camera_matrix_that_only_some_files_have_is_left_out_with_a_warning(record):
    import h5py

    known, unknown = record("a.h5"), record("b.h5")
    with h5py.File(unknown, "a") as file:
        for name in file:
            del file[f"{name}/obs/sensor_param"]
    with pytest.warns(UserWarning, match=r"b.h5 has no camera matrix of view 'cam'"):
        dataset = ChunkDataset([*read_demos(known), *read_demos(unknown)], horizon=2)
    assert "intrinsics" not in dataset[0]


def test_images_of_a_real_recording_are_unchanged(real):
    dataset = ChunkDataset(read_demos(real, views=["base_camera"], state=["qpos"]), horizon=3)
    reader = open_demos(str(real), ["base_camera"], ["qpos"])
    whole = np.concatenate(
        [reader.images(d.name, 0, d.steps)["base_camera"] for d in reader.demos()]
    ).transpose(0, 3, 1, 2)
    order = np.random.default_rng(0).permutation(len(dataset))
    batch = dataset.__getitems__(order.tolist())
    assert batch["images"]["base_camera"].shape == (128, 3, 128, 128)
    assert torch.equal(batch["images"]["base_camera"], torch.from_numpy(whole[order]))
    assert batch["intrinsics"]["base_camera"].shape == (128, 3, 3)


def test_indexing_reads_no_image(record, monkeypatch):
    from e0_lightning.data.formats.maniskill import ManiSkillReader

    def forbidden(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr(ManiSkillReader, "read_images", forbidden)
    dataset = ChunkDataset(read_demos(record()), horizon=4)
    assert sum(len(actions) for actions, _, _ in dataset.action_chunks()) == 24


def test_action_chunks_equal_those_of_batches(record):
    dataset = ChunkDataset(read_demos(record()), horizon=4)
    actions, state, valid = (
        torch.cat(parts) for parts in zip(*dataset.action_chunks(), strict=True)
    )
    batch = dataset.__getitems__(range(len(dataset)))
    assert torch.equal(actions, batch["actions"])
    assert torch.equal(state, batch["state"])
    assert torch.equal(valid, batch["valid"])


def test_blocks_follow_the_chunks_of_each_recording(real):
    blocks = ChunkDataset(read_demos(real, views=["base_camera"]), horizon=3).blocks()
    assert blocks.size.tolist() == [17, 17, 17, 14, 16, 16, 16, 15]
    assert blocks.first.tolist() == [0, 17, 34, 51, 65, 81, 97, 113]


def test_without_images_a_demonstration_is_read_once_and_whole(record):
    dataset = ChunkDataset(read_demos(record(steps=(7, 12, 5)), views=()), horizon=4)
    assert dataset.blocks().size.tolist() == [7, 12, 5]
    batch = dataset.__getitems__([8, 3, 18])
    assert batch["images"] == {}
    assert batch["state"].tolist() == [[1, 1], [0, 3], [1, 11]]
    assert sorted(dataset.buffer._blocks) == [(0, 0), (1, 0)]


def test_memory_holds_a_bounded_number_of_blocks(record):
    dataset = ChunkDataset(read_demos(record(steps=(40, 40), chunk=2)), horizon=4)
    dataset.buffer.max_blocks = 4
    for step in range(len(dataset)):
        dataset[step]
    assert len(dataset.buffer._blocks) == 6


def test_split_is_by_demo_and_always_the_same(record):
    whole = read_demos(record(steps=(5,) * 10))
    training, held = split(whole, val_fraction=0.2)
    assert (len(training), len(held)) == (8, 2)
    assert {demo.name for demo in training}.isdisjoint({demo.name for demo in held})
    assert split(whole, val_fraction=0.2) == (training, held)


def test_split_holds_out_the_same_share_of_every_source(record):
    few, many = record("few.h5", steps=(5,) * 2), record("many.h5", steps=(5,) * 20)
    _, held = split([*read_demos(few), *read_demos(many, source=1)], val_fraction=0.1)
    assert [demo.source for demo in held] == [0, 1, 1]


def test_split_refuses_to_leave_nothing_for_training(record):
    with pytest.raises(ValueError, match=r"demos\.h5: val_fraction 0.05 holds out 1 of 1 dem"):
        split(read_demos(record(steps=(5,))), val_fraction=0.05)


def test_no_file_is_left_open_for_workers_to_inherit(record):
    held = read_demos(record())
    dataset = ChunkDataset(held, horizon=4)
    assert len(list(dataset.action_chunks())) == 3
    assert held[0].reader._storage._file is None


def test_samples_name_their_demo_and_step(record):
    batch = ChunkDataset(read_demos(record(steps=(7, 12))), horizon=4).__getitems__([3, 7, 9])
    assert batch["demo"] == ["demos/traj_0", "demos/traj_1", "demos/traj_1"]
    assert batch["step"].tolist() == [3, 0, 2]
    assert batch["step"].dtype == torch.int64


@pytest.mark.parametrize("chunk", [1, 4, 40])
def test_the_history_is_of_the_steps_before_and_repeats_the_first(record, chunk):
    demos = read_demos(record(steps=(7, 12), chunk=chunk))
    dataset = ChunkDataset(demos, horizon=4, n_obs_steps=4)
    batch = dataset.__getitems__([0, 1, 6, 7, 12, 18])
    expected = [[0, 0, 0], [0, 0, 0], [3, 4, 5], [0, 0, 0], [2, 3, 4], [8, 9, 10]]
    demo_of_row = [[0], [0], [0], [1], [1], [1]]
    assert batch["history"]["images"]["cam"].shape == (6, 3, 3, 8, 8)
    assert batch["history"]["images"]["cam"][:, :, 1, 0, 0].tolist() == expected
    assert batch["history"]["state"][..., 1].tolist() == expected
    assert batch["history"]["state"][..., 0].tolist() == [row * 3 for row in demo_of_row]
    without = ChunkDataset(demos, horizon=4).__getitems__([0, 1, 6, 7, 12, 18])
    assert "history" not in without
    assert batch["images"]["cam"].equal(without["images"]["cam"])
    assert batch["state"].equal(without["state"])
    assert batch["actions"].equal(without["actions"])
