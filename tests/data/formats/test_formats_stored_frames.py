"""Raw frames whose bytes are read from the file without HDF5."""

import h5py
import numpy as np
import pytest

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.formats.stored_frames import RawFrames
from e0_lightning.types import ViewSize

KEY = "data/demo_1/obs/front_image"

IN_ONE_PIECE = {"contiguous": {}, "one frame a chunk": {"chunks": (1, 16, 16, 3)}}

OTHERWISE = {
    "several frames a chunk": {"chunks": (5, 16, 16, 3)},
    "parts of frames": {"chunks": (1, 16, 16, 1)},
    "gzip": {"compression": "gzip", "chunks": (1, 16, 16, 3)},
    "checksums": {"fletcher32": True, "chunks": (1, 16, 16, 3)},
}


def read(reader, start, stop):
    return reader.stored_images("demo_1", start, stop)["front"]


@pytest.mark.parametrize("storage", IN_ONE_PIECE | OTHERWISE)
def test_frames_are_those_of_h5py(write_robomimic, storage):
    path = write_robomimic(**(IN_ONE_PIECE | OTHERWISE)[storage])
    with h5py.File(path) as file:
        expected = file[KEY][()]
    reader = open_demos(path, ["front"], [])
    assert isinstance(read(reader, 3, 9), RawFrames) == (storage in IN_ONE_PIECE)
    np.testing.assert_array_equal(reader.images("demo_1", 3, 9)["front"], expected[3:9])
    np.testing.assert_array_equal(np.asarray(read(reader, 0, 24)), expected)


def test_frames_that_are_resized_or_cropped_are_read(write_robomimic):
    path = write_robomimic()
    for size in (ViewSize(8, 8), ViewSize(16, 16, crop=(0, 0, 8, 8))):
        assert isinstance(read(open_demos(path, {"front": size}, []), 0, 2), np.ndarray)


def test_frames_in_a_file_behind_a_link_or_a_user_block_are_read_by_h5py(write_robomimic, tmp_path):
    path = write_robomimic()
    write_robomimic("other.hdf5", demos=2, steps=24)
    with h5py.File(path, "a") as file:
        del file[KEY]
        file[KEY] = h5py.ExternalLink("other.hdf5", "data/demo_0/obs/front_image")
    with h5py.File(tmp_path / "other.hdf5") as file:
        expected = file["data/demo_0/obs/front_image"][()]
    reader = open_demos(path, ["front"], [])
    reader.images("demo_0", 0, 1)
    np.testing.assert_array_equal(reader.images("demo_1", 0, 24)["front"], expected)
    shifted = tmp_path / "shifted.hdf5"
    with h5py.File(path) as file, h5py.File(shifted, "w", userblock_size=512) as copy:
        file.copy("data", copy, expand_external=True)
    np.testing.assert_array_equal(
        open_demos(str(shifted), ["front"], []).images("demo_1", 0, 24)["front"], expected
    )


def test_frames_of_a_file_that_was_closed_are_read_from_it_again(write_robomimic):
    reader = open_demos(write_robomimic(), ["front"], [])
    frames = read(reader, 0, 24)
    expected = np.asarray(frames)
    reader.close()
    with open(reader.path, "rb"):  # takes the number that the file had
        np.testing.assert_array_equal(np.asarray(frames), expected)


def test_a_file_that_was_cut_is_refused(write_robomimic):
    reader = open_demos(write_robomimic(), ["front"], [])
    reader.images("demo_1", 0, 1)
    with open(reader.path, "r+b") as file:
        file.truncate(read(reader, 20, 21).offsets[0] + 100)
    reader.images("demo_1", 0, 1)
    with pytest.raises(ValueError, match=rf"{reader.path}: expected a frame at byte \d+, got the "):
        reader.images("demo_1", 20, 21)
