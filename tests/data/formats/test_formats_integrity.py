"""Data that are not there, or whose index is damaged, are errors and not zeros."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.formats.hdf5 import name_damage
from e0_lightning.inspection.inspect import inspect

STEPS = 24


def each(function):
    """An edit of every demonstration of a file."""
    return lambda file: [function(file[f"data/{demo}"]) for demo in list(file["data"])]


def replace(key, write):
    """An edit that deletes ``obs/<key>`` of every demonstration and writes it anew."""

    def edit(demo):
        values = demo[f"obs/{key}"][()]
        del demo[f"obs/{key}"]
        write(demo["obs"], key, values)

    return each(edit)


def assert_refused(path, message, robot_demos, capsys):
    """Training and `e0 inspect` both name the problem."""
    with pytest.raises(ValueError, match=message):
        robot_demos(path)
    with pytest.raises(SystemExit):
        inspect([path])
    out = capsys.readouterr().out
    assert "problem" in out


def virtual(source, path):
    """Write a file whose data sets are views of those of ``source``."""
    with h5py.File(source) as old, h5py.File(path, "w") as new:
        new.create_group("data").attrs.update(old["data"].attrs)
        for demo in old["data"]:
            for key in ("actions", "obs/front_image", "obs/joint_pos"):
                dataset = old[f"data/{demo}/{key}"]
                layout = h5py.VirtualLayout(dataset.shape, dataset.dtype)
                name = os.path.relpath(source, Path(path).parent)
                layout[...] = h5py.VirtualSource(name, dataset.name, layout.shape)
                new.create_virtual_dataset(dataset.name, layout)
    return str(path)


def test_virtual_data_sets_are_read_while_their_source_exists(
    write_robomimic, robot_demos, tmp_path, capsys
):
    source = write_robomimic("source.hdf5")
    path = virtual(source, tmp_path / "virtual.hdf5")
    assert next(iter(robot_demos(path).train_dataloader()))["images"]["front"].min() > 0
    os.rename(source, tmp_path / "moved.hdf5")
    assert_refused(path, "refers to .*source.hdf5, which does not exist", robot_demos, capsys)


def test_sources_outside_of_the_folder_are_refused(write_robomimic, robot_demos, tmp_path, capsys):
    source = write_robomimic("source.hdf5")
    (tmp_path / "sub").mkdir()
    path = virtual(source, tmp_path / "sub/virtual.hdf5")
    assert_refused(path, "expected a file in .*sub.*symbolic link", robot_demos, capsys)


@pytest.mark.parametrize("chunks", [(4, 16, 16, 3), None])
def test_images_that_were_never_written_are_refused(write_robomimic, robot_demos, capsys, chunks):
    def unwritten(obs, key, values):
        options = {"chunks": chunks, "compression": "gzip"} if chunks else {}
        obs.create_dataset(key, values.shape, "u1", **options)

    path = write_robomimic(edit=replace("front_image", unwritten))
    assert_refused(path, "front_image: .*never written", robot_demos, capsys)


def test_some_missing_chunks_are_refused(write_robomimic, robot_demos, capsys):
    def half(obs, key, values):
        dataset = obs.create_dataset(key, values.shape, "u1", chunks=(4, *values.shape[1:]))
        dataset[:8] = values[:8]

    path = write_robomimic(edit=replace("front_image", half))
    assert_refused(path, "expected 6 chunks of values, got 2", robot_demos, capsys)


def test_a_compression_filter_that_is_not_installed_is_named(write_robomimic, robot_demos, capsys):
    def blosc(obs, key, values):
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk(values.shape)
        settings.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 1, values.nbytes, 5, 1, 1))
        space = h5py.h5s.create_simple(values.shape)
        dataset = h5py.h5d.create(obs.id, key.encode(), h5py.h5t.NATIVE_UINT8, space, settings)
        dataset.write_direct_chunk((0,) * 4, values.tobytes()[:500], 0)

    path = write_robomimic(edit=replace("front_image", blosc))
    message = r"filter 32001 \(blosc\), which is not installed.*pip install hdf5plugin"
    assert_refused(path, message, robot_demos, capsys)


def test_external_raw_storage_is_refused(write_robomimic, robot_demos, capsys):
    def external(obs, key, values):
        file = [("/etc/passwd", 0, values.nbytes)]
        obs.create_dataset(key, values.shape, "u1", external=file)

    path = write_robomimic(edit=replace("front_image", external))
    assert_refused(path, "another file, /etc/passwd .*which is not read", robot_demos, capsys)


def test_pipes_are_refused_without_opening_them(tmp_path):
    os.mkfifo(tmp_path / "demos.h5")
    with pytest.raises(ValueError, match="got a pipe"):
        open_demos(str(tmp_path / "demos.h5"))


def test_git_lfs_pointers_and_dangling_links_are_named(tmp_path):
    pointer, link = tmp_path / "pointer.h5", tmp_path / "link.h5"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        open_demos(str(pointer))
    link.symlink_to(tmp_path / "gone.h5")
    with pytest.raises(ValueError, match=r"link.h5: no such file.*a link to .*gone.h5"):
        open_demos(str(link))


UNUSED = {
    "group": lambda obs: obs.create_dataset("datagen_info/pose", data=np.zeros((STEPS, 4, 4))),
    "soft link": lambda obs: obs.__setitem__("side_image", h5py.SoftLink("/moved")),
    "external link": lambda obs: obs.__setitem__("side", h5py.ExternalLink("gone.hdf5", "/x")),
    "number": lambda obs: obs.create_dataset("fps", data=20),
    "text": lambda obs: obs.create_dataset("language", data="open it"),
    "empty": lambda obs: obs.create_dataset("note", data=h5py.Empty("f4")),
    "text per step": lambda obs: obs.create_dataset(
        "words", data=["open it"] * STEPS, dtype=h5py.string_dtype()
    ),
}


@pytest.mark.parametrize("kind", UNUSED)
def test_members_of_obs_that_are_not_read_do_not_matter(write_robomimic, robot_demos, capsys, kind):
    path = write_robomimic(edit=each(lambda demo: UNUSED[kind](demo["obs"])))
    assert len(robot_demos(path).datasets[0]) == 5 * STEPS
    inspect([path])
    out = capsys.readouterr().out
    assert "joint_pos[3]" in out
    assert "problem" not in out


def test_a_state_part_of_text_is_refused_by_name(write_robomimic, robot_demos):
    path = write_robomimic(edit=each(lambda demo: UNUSED["text per step"](demo["obs"])))
    with pytest.raises(ValueError, match=r"words: expected numbers .* state part 'words'"):
        open_demos(path, ["front"], ["words"]).demos()


def test_a_named_view_behind_a_dangling_link_is_named(write_robomimic):
    path = write_robomimic(edit=each(lambda demo: UNUSED["soft link"](demo["obs"])))
    with pytest.raises(ValueError, match="no view 'side'; the file has: front"):
        open_demos(path, ["side"], []).demos()


def test_a_file_with_bit_flips_in_its_index_is_read_right_or_refused(record):
    """Flips outside of the chunks, in the index of images above all."""
    path = Path(record(steps=(40,), side=32, chunk=2))
    raw, outside = path.read_bytes(), np.ones(path.stat().st_size, bool)

    def read():
        reader = open_demos(str(path), ["cam"], ["qpos"])
        try:
            (demo,) = reader.demos()
            return reader.images(demo.name, 0, demo.steps)["cam"].copy()
        finally:
            reader.close()

    expected = read()
    with h5py.File(path) as file:
        images = file["traj_0/obs/sensor_data/cam/rgb"]
        images.id.chunk_iter(
            lambda c: outside.__setitem__(slice(c.byte_offset, c.byte_offset + c.size), False)
        )
    rng, refused = np.random.default_rng(0), 0
    for position in rng.choice(np.flatnonzero(outside), 150):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read()
        except ValueError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, expected)
    assert refused > 20


def test_errors_of_any_type_that_h5py_raises_name_the_file():
    with (
        pytest.raises(ValueError, match=r"demos\.h5: reading failed \(TypeError: "),
        name_damage("demos.h5"),
    ):
        h5py.h5t.py_create(np.dtype("U3"))
    with pytest.raises(TypeError), name_damage("demos.h5"):
        raise TypeError("a defect of a reader")


def test_camera_matrices_whose_chunks_are_lost_are_refused(record):
    path = record(steps=(6,))
    with h5py.File(path, "r+") as file:
        shape = file["traj_0/obs/sensor_param/cam/intrinsic_cv"].shape
        del file["traj_0/obs/sensor_param/cam/intrinsic_cv"]
        matrices = file.create_dataset(
            "traj_0/obs/sensor_param/cam/intrinsic_cv",
            shape,
            "f4",
            chunks=(1, 3, 3),
            fletcher32=True,
        )
        matrices[:] = np.eye(3)
        offset = matrices.id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\1")
    with pytest.raises(ValueError, match=r"demos\.h5: .*intrinsic_cv.* damaged"):
        open_demos(path, ["cam"], ["qpos"]).intrinsics("traj_0")


def test_robomimics_env_args_may_be_missing_only_with_a_clear_error(write_robomimic):
    path = write_robomimic(
        edit=lambda file: file["data"].attrs.__setitem__("env_args", json.dumps({}))
    )
    with pytest.raises(ValueError, match="expected a controller in its attributes"):
        open_demos(path, ["front"], ["joint_pos"]).demos()
