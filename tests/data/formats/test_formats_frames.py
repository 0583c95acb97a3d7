import io

import h5py
import numpy as np
import pytest
from PIL import Image

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.inspect import inspect
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


def encode(frames):
    encoded = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG")
        encoded.append(file.getvalue())
    return encoded


def variable_length(obs, frames):
    rows = obs.create_dataset("front_image", (len(frames),), dtype=h5py.vlen_dtype(np.uint8))
    for index, row in enumerate(encode(frames)):
        rows[index] = np.frombuffer(row, np.uint8)


def padded(frames):
    rows = encode(frames)
    longest = max(map(len, rows))
    return np.array([np.frombuffer(row.ljust(longest, b"\0"), np.uint8) for row in rows])


REFUSED = {
    "variable length": (store(variable_length), r"encoded images \(JPEG\)"),
    "strings": (convert(lambda x: np.array(encode(x))), r"encoded images \(JPEG\)"),
    "padded": (convert(padded), r"encoded images \(JPEG\)"),
    "channels first": (convert(lambda x: x.transpose(0, 3, 1, 2)), "channels first"),
    "grey": (convert(lambda x: x[..., 0]), "one channel"),
    "grey channel": (convert(lambda x: x[..., :1]), "one channel"),
    "alpha": (convert(lambda x: np.concatenate([x, x[..., :1]], -1)), "four channels"),
    "int64": (convert(lambda x: x.astype(np.int64)), "images of int64, not uint8"),
    "float": (convert(lambda x: x / np.float32(255)), "images of float32, not uint8"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_images_of_other_encodings_are_refused_with_what_they_are(
    write_robomimic, robot_demos, capsys, kind
):
    edit, message = REFUSED[kind]
    path = write_robomimic(edit=edit, steps=5)
    with pytest.raises(ValueError, match=f"front_image holds {message}|front_image .*{message}"):
        robot_demos(path)
    with pytest.raises(SystemExit):
        inspect([path])
    assert "front_image holds" in capsys.readouterr().out


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
