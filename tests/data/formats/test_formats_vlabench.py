import os
import sys
import zlib
from functools import partial
from math import prod
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from e0_lightning.augment.viewpoint import ViewpointPerturbation
from e0_lightning.data import open_files
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.formats.hdf5 import read_chunks
from e0_lightning.data.sources import DemoSource
from e0_lightning.inspection.inspect import inspect
from e0_lightning.types import ViewSize
from vlabench_recording import BASE, record, scene

STATE = ["ee_pos", "ee_euler", "gripper_open"]
FIRST = "data/2025-02-03 10:00:00"
THREE = ["front", "wrist", "right"]


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """One episode at the size and in the chunks of a real file."""
    return str(record(tmp_path_factory.mktemp("made") / "select_fruit" / "data_0.hdf5"))


@pytest.fixture
def small(tmp_path):
    return partial(record, tmp_path / "select_fruit" / "data_0.hdf5", side=16)


def stored(path, key):
    with h5py.File(path) as file:
        return file[f"{FIRST}/{key}"][()]


def test_the_recording_has_vlabenchs_shapes_and_chunks(full_size):
    with h5py.File(full_size) as file:
        rgb = file[f"{FIRST}/observation/rgb"]
        assert (rgb.shape, rgb.dtype, rgb.compression_opts) == ((14, 4, 480, 480, 3), np.uint8, 9)
        assert rgb.chunks == (4, 1, 120, 120, 1)  # what h5py chooses by itself
        assert file[f"{FIRST}/trajectory"].dtype == np.float32


def test_spec_is_that_of_the_papers(full_size):
    spec = open_demos(full_size, THREE, STATE).spec
    assert spec.views == dict.fromkeys(THREE, ViewSize(480, 480))
    assert spec.state == {"ee_pos": 3, "ee_euler": 3, "gripper_open": 1}
    assert (spec.action_dim, spec.control_mode) == (7, "ee_pose_absolute")
    assert open_demos(full_size).spec.state["q_state"] == 7


def test_state_is_the_pose_of_vlabenchs_client_with_its_flag_inverted(full_size):
    file = open_demos(full_size, [], STATE)
    raw, states = (
        stored(full_size, "observation/ee_state"),
        file.states(next(iter(file.lengths())), 0, 14),
    )
    np.testing.assert_allclose(states[:, :3], raw[:, :3] - BASE, atol=1e-6)
    np.testing.assert_array_equal(states[:, 6], 1 - raw[:, 7])
    assert states[:, 6].tolist() == [1] * 7 + [0] * 7


def test_actions_are_target_poses_and_equal_the_next_state(full_size):
    file = open_demos(full_size, [], STATE)
    name = next(iter(file.lengths()))
    actions, states = file.actions(name, 0, 14), file.states(name, 0, 14)
    np.testing.assert_array_equal(actions[:, :6], stored(full_size, "trajectory")[:, :6])
    np.testing.assert_allclose(actions[:-1], states[1:], atol=2e-6)
    assert actions[:, 6].tolist() == [1] * 6 + [0] * 8


@pytest.mark.parametrize("views", [THREE, ["wrist"], ["left", "right"]])
def test_views_are_selected_by_name(full_size, views):
    file = open_demos(full_size, views, STATE)
    images = file.images(next(iter(file.lengths())), 3, 9)
    assert list(images) == views
    for view, pixels in images.items():
        assert pixels.shape == (6, 480, 480, 3)
        assert (pixels[..., 0] == 10 * ["right", "left", "front", "wrist"].index(view)).all()
        assert pixels[:, 5, 5, 1].tolist() == [3, 4, 5, 6, 7, 8]
        assert pixels[0, 0, [0, 255, 479], 2].tolist() == [0, 255, 223]


@pytest.mark.parametrize("chunks", [(4, 1, 8, 8, 1), (4, 2, 16, 8, 3), (3, 4, 16, 16, 3), None])
def test_chunks_of_any_shape_are_decoded_once(small, chunks, monkeypatch):
    path = small(frames=scene)
    with h5py.File(path, "a") as file:
        whole = file[f"{FIRST}/observation/rgb"][()]
        del file[f"{FIRST}/observation/rgb"]
        options = {"chunks": chunks, "compression": "gzip"} if chunks else {}
        file.create_dataset(f"{FIRST}/observation/rgb", data=whole, **options)
    decoded, decompress = [], zlib.decompress

    def count(raw):
        values = decompress(raw)
        decoded.append(len(values))
        return values

    monkeypatch.setattr(zlib, "decompress", count)
    demos = RobotDemos([str(path)], THREE, STATE, horizon=4, num_workers=0, val_fraction=0)
    batch = demos.datasets[0].__getitems__(range(14))
    for index, view in zip([2, 3, 0], THREE, strict=True):
        expected = whole[:, index].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(batch["images"][view].numpy(), expected)
    if chunks:
        of_views = len({index // chunks[1] for index in (0, 2, 3)})
        each = [-(-size // chunk) for size, chunk in zip(whole.shape, chunks, strict=True)]
        of_images = decoded.count(prod(chunks))  # others are of trajectory and state
        assert of_images == each[0] * of_views * each[2] * each[3] * each[4]


@pytest.mark.parametrize(
    "options", [{"shuffle": True}, {"fletcher32": True}, {"compression": "lzf"}]
)
def test_other_filters_are_read_by_h5py(tmp_path, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        values = np.random.default_rng(0).integers(0, 9, (7, 5, 6), np.uint8)
        stored = file.create_dataset("a", data=values, **{"compression": "gzip", **options})
        np.testing.assert_array_equal(
            read_chunks(stored, slice(2, 6), slice(1, 3)), values[2:6, 1:3]
        )


def test_a_damaged_chunk_is_named(small):
    path = small()
    with h5py.File(path) as file:
        rgb = file[f"{FIRST}/observation/rgb"]
        where = rgb.id.get_chunk_info_by_coord((0, 0, 0, 0, 0)).byte_offset
    damaged = bytearray(path.read_bytes())
    damaged[where : where + 4] = b"\xff" * 4
    path.write_bytes(damaged)
    file = open_demos(str(path), ["right"], STATE)
    with pytest.raises(ValueError, match=r"data_0.hdf5: .*/observation/rgb: the chunk at \(0, 0"):
        file.images(next(iter(file.lengths())), 0, 4)


@pytest.mark.parametrize(("task", "front"), [("select_fruit", 45), ("select_painting", 50)])
def test_intrinsics_are_those_that_vlabench_gives_its_cameras(tmp_path, task, front):
    file = open_demos(str(record(tmp_path / task / "data_0.hdf5", side=16)), None, STATE)
    found = file.intrinsics(next(iter(file.lengths())))
    for view, field in {"right": 45, "left": 45, "front": front, "wrist": 45}.items():
        focal = 8 / np.tan(np.deg2rad(field / 2))
        np.testing.assert_allclose(found[view], [[focal, 0, 8], [0, focal, 8], [0, 0, 1]], 1e-6)


def test_front_camera_of_an_unknown_task_needs_a_field_of_view(tmp_path):
    path = record(tmp_path / "mine" / "data_0.hdf5", side=16)
    demos = RobotDemos([str(path)], THREE, STATE, horizon=2, num_workers=0, val_fraction=0)
    batch = next(iter(demos.train_dataloader()))
    assert set(batch["intrinsics"]) == {"wrist", "right"}
    trainer = SimpleNamespace(global_step=0, global_rank=0, is_global_zero=True, loggers=[])
    with pytest.raises(ValueError, match="no camera matrix of view 'front'"):
        ViewpointPerturbation().on_train_batch_start(trainer, None, batch, 0)
    ViewpointPerturbation(fov={"front": 40}).on_train_batch_start(trainer, None, batch, 0)
    assert batch["view_offset"]["front"].any()


def test_a_file_may_hold_several_demonstrations(small):
    path = str(small(steps=(5, 9)))
    file = open_demos(path, ["front"], STATE)
    assert [(demo.name[-2:], demo.steps) for demo in file.demos()] == [("00", 5), ("01", 9)]


def test_inspect_describes_a_file(small, capsys):
    inspect([str(small())])
    lines = " ".join(capsys.readouterr().out.split())
    for text in (
        "format VLABench",
        "task select_fruit",
        "'Pick the apple'",
        "control mode ee_pose_absolute",
        "steps 14 in all",
        "front: 16 x 16 px, intrinsics known, chunks",
        "state gripper_open: 1",
    ):
        assert text in lines


def test_a_missing_instruction_is_refused_unless_one_is_given(small):
    path = small()
    with h5py.File(path, "a") as file:
        del file[f"{FIRST}/instruction"]
    with pytest.raises(ValueError, match=r"10:00:00 has no instruction.*\{path: …, instruct"):
        RobotDemos([str(path)], THREE, STATE, horizon=2).setup("fit")
    given = RobotDemos([DemoSource(str(path), instruction="pick")], THREE, STATE, 2, val_fraction=0)
    assert given.datasets[0].demos[0].instruction == "pick"


def test_a_truncated_file_is_refused(small):
    path = small()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="got a truncated HDF5 file"):
        open_demos(str(path))


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("trajectory", None, "trajectory: expected \\(T, 8\\), got nothing"),
        ("trajectory", np.zeros((14, 7)), "expected \\(T, 8\\), got \\(14, 7\\) of float64"),
        (
            "trajectory",
            np.zeros((9, 8)),
            "(?:ee_state|rgb): expected .* 9 steps of the trajectory .* got 14",
        ),
        ("observation/ee_state", None, "ee_state: expected .* got nothing"),
        ("observation/rgb", None, "rgb: expected .* got nothing"),
        ("observation/rgb", np.zeros((14, 6, 4, 4, 3), "u1"), "right, left, front.*got .*6, 4"),
        ("observation/rgb", np.zeros((14, 4, 4, 4, 3)), "of uint8, .*float64"),
    ],
)
def test_missing_and_misshapen_data_sets_are_named(small, key, values, message):
    path = small()
    with h5py.File(path, "a") as file:
        del file[f"{FIRST}/{key}"]
        if values is not None:
            file[f"{FIRST}/{key}"] = values
    with pytest.raises(ValueError, match=rf"data_0.hdf5: .*{FIRST}.*({message}).*again"):
        open_demos(str(path), THREE, STATE).demos()


@pytest.mark.parametrize("key", ["trajectory", "observation/ee_state"])
def test_values_that_are_not_finite_are_named_with_their_step(small, key):
    path = small()
    with h5py.File(path, "a") as file:
        file[f"{FIRST}/{key}"][6, 2] = np.nan
    file = open_demos(str(path), THREE, STATE)
    with pytest.raises(ValueError, match=rf"{FIRST[5:]}/{key} at step 6: expected finite"):
        (
            file.actions(next(iter(file.lengths())), 4, 9),
            file.states(next(iter(file.lengths())), 4, 9),
        )


@pytest.mark.parametrize(
    ("views", "state", "message"),
    [
        (["top"], STATE, "no view 'top'; VLABench's are: right, left, front, wrist"),
        (THREE, ["pose"], "no state part 'pose', it has ee_pos, ee_euler, gripper_open, q_st"),
    ],
)
def test_missing_views_and_state_parts_are_named(small, views, state, message):
    with pytest.raises(ValueError, match=message):
        _ = open_demos(str(small()), views, state).spec


@pytest.mark.skipif(sys.platform != "linux", reason="open files are read from Linux's /proc")
def test_few_files_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(open_files, "MAX_FILES", 2)
    for number in range(5):
        record(tmp_path / "select_toy" / f"data_{number}.hdf5", steps=(3,), side=4)
    demos = RobotDemos([f"{tmp_path}/*/*.hdf5"], THREE, STATE, 2, num_workers=0, val_fraction=0)
    assert sum(len(actions) for actions, _, _ in demos.action_chunks()) == 15
    batch = demos.datasets[0].__getitems__(range(15))
    assert batch["images"]["wrist"][:, 1, 0, 0].tolist() == [0, 1, 2] * 5
    handles = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is(fd)]
    assert len([handle for handle in handles if handle.startswith(str(tmp_path))]) <= 2


def _is(fd):
    return os.path.islink(f"/proc/self/fd/{fd}")
