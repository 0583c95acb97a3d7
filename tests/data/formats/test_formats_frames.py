"""Frames in the encodings that recorders use, in files of robomimic's layout."""

import io

import h5py
import numpy as np
import pytest
from PIL import Image

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.inspection.inspect import inspect
from e0_lightning.types import ViewSize


def store(write):
    """An edit that stores the frames of every demonstration by ``write(obs, frames)``."""

    def edit(file):
        for demo in file["data"].values():
            frames = demo["obs/front_image"][()]
            del demo["obs/front_image"]
            write(demo["obs"], frames)

    return edit


def convert(function):
    return store(lambda obs, frames: obs.create_dataset("front_image", data=function(frames)))


def encode(frames, kind="JPEG"):
    encoded = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, kind)
        encoded.append(file.getvalue())
    return encoded


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def variable_length(obs, rows):
    dataset = obs.create_dataset("front_image", (len(rows),), dtype=h5py.vlen_dtype(np.uint8))
    for index, row in enumerate(rows):
        dataset[index] = np.frombuffer(row, np.uint8)


def padded(rows):
    longest = max(map(len, rows)) + 5
    return np.array([np.frombuffer(row.ljust(longest, b"\0"), np.uint8) for row in rows])


ENCODED = {
    "variable length": lambda obs, rows: variable_length(obs, rows),
    "strings": lambda obs, rows: obs.create_dataset("front_image", data=np.array(rows)),
    "opaque": lambda obs, rows: obs.create_dataset(
        "front_image", data=padded(rows).view(f"V{len(padded(rows)[0])}")[:, 0]
    ),
    "padded": lambda obs, rows: obs.create_dataset("front_image", data=padded(rows)),
    "padded and compressed": lambda obs, rows: obs.create_dataset(
        "front_image", data=padded(rows), compression="gzip", chunks=(2, 50)
    ),
}

RAW = {
    "channels first": (lambda x: x.transpose(0, 3, 1, 2), lambda x: x),
    "grey": (lambda x: x[..., 0], lambda x: x[..., :1].repeat(3, axis=3)),
    "grey channel": (lambda x: x[..., :1], lambda x: x[..., :1].repeat(3, axis=3)),
    "alpha": (lambda x: np.concatenate([x, x[..., :1]], -1), lambda x: x),
    "float": (lambda x: x / np.float32(255), lambda x: x),
    "double": (lambda x: x / 255, lambda x: x),
}

REFUSED = {
    "int64": (convert(lambda x: x.astype(np.int64)), r"expected frames of uint8 .* of int64"),
    "depth": (convert(lambda x: x[..., 0].astype(np.uint16)), r"expected frames .* of uint16"),
    "floats to 255": (convert(lambda x: x.astype(np.float32)), "float pixels from 0 to 1, got"),
    "not finite": (convert(lambda x: np.full(x.shape, np.nan)), "from 0 to 1, got nan to nan"),
    "two channels": (convert(lambda x: x[..., :2]), r"expected frames .*\(5, 16, 16, 2\)"),
    "scalar": (store(lambda obs, _: obs.create_dataset("front_image", data=1)), "differ in length"),
    "text": (convert(lambda x: np.array([b"frame"] * len(x))), r"expected frames .* of \|S5"),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("storage", ENCODED)
def test_encoded_frames_are_those_of_another_decoder(write_robomimic, storage, kind):
    encoded = {}

    def write(obs, frames):
        rows = encoded[obs.parent.name] = encode(frames, kind)
        ENCODED[storage](obs, rows)

    reader = open_demos(write_robomimic(edit=store(write), steps=5, demos=2))
    assert reader.spec.views == {"front": ViewSize(16, 16)}
    assert reader.spec.state == {"joint_pos": 4}
    assert reader.demos()[1].block_length == 1
    frames = reader.images("demo_1", 2, 5)["front"]
    expected = [decode(row) for row in encoded["/data/demo_1"][2:]]
    np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("kind", RAW)
def test_raw_frames_become_rgb_of_uint8(write_robomimic, kind):
    stored, expected = RAW[kind]
    original = {}

    def write(obs, frames):
        original[obs.parent.name] = frames
        obs.create_dataset("front_image", data=stored(frames))

    reader = open_demos(write_robomimic(edit=store(write), steps=5, demos=2), ["front"], [])
    frames = reader.images("demo_1", 1, 4)["front"]
    np.testing.assert_array_equal(frames, expected(original["/data/demo_1"])[1:4])


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_frame_is_refused_by_name(write_robomimic, robot_demos, capsys, kind):
    edit, message = REFUSED[kind]
    path = write_robomimic(edit=edit, steps=5)
    with pytest.raises(ValueError, match=f"obs/front_image.*{message}"):
        robot_demos(path)
    with pytest.raises(SystemExit):
        inspect([path])
    assert f"{path}: /data/demo_0/obs/front_image" in capsys.readouterr().out


def test_a_damaged_frame_in_the_middle_is_named(write_robomimic):
    def write(obs, frames):
        rows = encode(frames)
        rows[3] = rows[3][:-100]
        variable_length(obs, rows)

    path = write_robomimic(edit=store(write), steps=6, demos=2)
    reader = open_demos(path)
    reader.images("demo_0", 0, 3)
    where = rf"{path}: /data/demo_0/obs/front_image, frame 3"
    with pytest.raises(ValueError, match=f"{where}: .* damaged and cannot be decoded"):
        reader.images("demo_0", 3, 4)


def test_a_frame_of_absurd_size_is_not_decoded(write_robomimic):
    def write(obs, frames):
        rows = encode(frames)
        size = rows[2].index(b"\xff\xc0") + 5  # rows and columns in the header of the frame
        rows[2] = rows[2][:size] + b"\x20\x00\x20\x01" + rows[2][size + 4 :]
        variable_length(obs, rows)

    reader = open_demos(write_robomimic(edit=store(write), steps=4, demos=2))
    with pytest.raises(ValueError, match=r"frame 2: .*at most \d+ pixels, got 8192 x 8193"):
        reader.images("demo_0", 0, 4)


def test_frames_that_change_size_need_a_size_of_the_images(write_robomimic):
    sizes = [(16, 16), (16, 16), (24, 32)]

    def write(obs, frames):
        rows = [np.full((*size, 3), 200, np.uint8) for size in sizes]
        variable_length(obs, encode(rows))

    def edit(file):
        store(write)(file)
        for demo in file["data"].values():
            for key in ("actions", "obs/joint_pos"):
                values = demo[key][:3]
                del demo[key]
                demo[key] = values

    path = write_robomimic(edit=edit, steps=5, demos=2)
    reader = open_demos(path, ["front"], [])
    with pytest.raises(ValueError, match=r"demo_1/obs/front_image, frame 2: .* got 24 x 32"):
        reader.images("demo_1", 0, 3)
    resized = open_demos(path, {"front": ViewSize(12, 16)}, []).images("demo_1", 0, 3)["front"]
    assert resized.shape == (3, 12, 16, 3)
    np.testing.assert_allclose(resized[2], 200, atol=2)  # all of its frame
    assert not resized[0, :, 0].any()  # the first is padded at both sides


def test_frames_that_are_not_square_are_padded_where_the_images_are_square(write_robomimic):
    path = write_robomimic(edit=convert(lambda x: x[:, :12]), steps=5)
    assert open_demos(path, ["front"], []).spec.views == {"front": ViewSize(12, 16)}
    reader = open_demos(path, {"front": ViewSize(16, 16)}, ["joint_pos"])
    images = reader.images("demo_0", 0, 5)["front"]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(images[:, 2:14], file["data/demo_0/obs/front_image"])
    assert not images[:, :2].any()
    assert not images[:, 14:].any()


def test_images_without_robomimics_suffix_are_views(write_robomimic):
    def rename(file):
        for demo in file["data"].values():
            demo["obs"].move("front_image", "table_cam")

    assert open_demos(write_robomimic(edit=rename)).spec.views == {"table_cam": ViewSize(16, 16)}
