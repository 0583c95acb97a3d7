"""Depth of demonstrations, in batches beside the images."""

import h5py
import numpy as np
import pytest
import torch

from e0_lightning.data.chunk_dataset import ChunkDataset
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.depth import resize_depth
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.samples import Demo
from e0_lightning.types import ViewSize


@pytest.fixture(params=[1, 3], ids=["chunks of a step", "chunks of 3 steps"])
def path(record, request):
    """A recording whose depth is the step in millimetres, plus the column."""
    path = record(steps=(7, 5), chunk=request.param)
    with h5py.File(path, "a") as file:
        for demo in file.values():
            camera = demo["obs/sensor_data/cam"]
            shape = (*camera["rgb"].shape[:3], 1)
            depth = np.broadcast_to(100 * np.arange(shape[0])[:, None, None, None], shape)
            camera["depth"] = (depth + np.arange(shape[2])[:, None]).astype(np.int16)
    return path


def test_samples_have_the_depth_of_their_step(path):
    reader = open_demos(path, ["cam"], ["qpos"])
    demos = [Demo(reader, *demo, instruction="go", source=0) for demo in reader.demos()]
    batch = ChunkDataset(demos, horizon=2, depth=["cam"]).__getitems__([3, 6, 7, 11])
    depth = batch["depth"]["cam"]
    assert depth.shape == (4, *batch["images"]["cam"].shape[-2:])
    assert depth.dtype == torch.float32
    assert depth[:, 0, 0].tolist() == pytest.approx([0.3, 0.6, 0.0, 0.4], abs=1e-6)
    assert (depth[0, 0] - depth[0, 0, 0]).tolist() == pytest.approx(
        [column / 1000 for column in range(depth.shape[-1])], abs=1e-6
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_workers_have_depth(path, workers):
    data = RobotDemos(
        [path], ["cam"], ["qpos"], horizon=2, batch_size=4, num_workers=workers, depth=["cam"]
    )
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["depth"]["cam"][:, 0, 0].tolist() == pytest.approx(
        (batch["step"] / 10).tolist(), abs=1e-6
    )
    data.teardown("fit")


def test_batches_have_no_depth_unless_it_is_asked_for(path):
    data = RobotDemos([path], ["cam"], ["qpos"], horizon=2, num_workers=0)
    data.setup("fit")
    assert "depth" not in next(iter(data.train_dataloader()))


def test_files_without_depth_are_refused_before_the_first_step(record):
    data = RobotDemos([record()], ["cam"], ["qpos"], horizon=2, depth=["cam"])
    with pytest.raises(ValueError, match=r"demos.h5: expected the depth of view 'cam' in traj_"):
        data.setup("fit")


def test_other_views_are_refused():
    with pytest.raises(ValueError, match=r"depth: expected views among \['cam'\], got \['top'\]"):
        RobotDemos(["a.h5"], ["cam"], ["qpos"], horizon=2, depth=["top"])


def test_resized_depth_has_recorded_values_and_zeros_in_the_padding():
    depth = np.arange(1, 1 + 6 * 8, dtype=np.float32).reshape(1, 6, 8)
    size = ViewSize(4, 6, crop=[0.0, 0.0, 1.0, 0.5])  # 6 x 4 to 4 x 3, in 4 x 6
    resized = resize_depth(depth, size)[0]
    assert resized.shape == (4, 6)
    assert (resized[:, [0, -2, -1]] == 0).all()
    inner = resized[:, 1:4]
    assert np.isin(inner, depth[0, :, :4]).all()
    # Rows 0.75, 2.25, 3.75, 5.25 and columns 0.67, 2, 3.33 of the frame.
    np.testing.assert_array_equal(inner, depth[0][[0, 2, 3, 5]][:, [0, 2, 3]])


def test_depth_of_the_recorded_size_is_unchanged():
    depth = np.random.default_rng(0).random((2, 5, 7), np.float32)
    np.testing.assert_array_equal(resize_depth(depth, ViewSize(5, 7)), depth)
