"""Encoded frames that are decoded one by one, straight into a batch."""

import io

import h5py
import numpy as np
import pytest
from PIL import Image

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.formats.encoded_frames import EncodedFrames
from e0_lightning.data.formats.stored_frames import copy_frame
from e0_lightning.types import ViewSize

KEY = "obs/front_image"


@pytest.fixture
def write_encoded(write_robomimic):
    """Write a file whose frames are PNG bytes, of which some may be edited."""

    def edit(file, change):
        for demo in file["data"].values():
            frames = change(demo[KEY][()])
            del demo[KEY]
            rows = demo.create_dataset(KEY, (len(frames),), dtype=h5py.vlen_dtype(np.uint8))
            for step, frame in enumerate(frames):
                encoded = io.BytesIO()
                Image.fromarray(frame).save(encoded, "PNG")
                rows[step] = np.frombuffer(encoded.getvalue(), np.uint8)

    return lambda change=list, **options: write_robomimic(
        edit=lambda file: edit(file, change), **options
    )


def raw_frames(write_robomimic):
    with h5py.File(write_robomimic("raw.hdf5")) as file:
        return file[f"data/demo_1/{KEY}"][()]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_a_frame_in_a_batch_is_that_of_all_frames(write_encoded, write_robomimic, color):
    expected = raw_frames(write_robomimic)[..., :: 1 if color == "rgb" else -1]
    reader = open_demos(write_encoded(), ["front"], [])
    dataset = reader.find(f"data/demo_1/{KEY}")
    frames = reader.frames(dataset, 3, 9, color)
    assert isinstance(frames, EncodedFrames)
    batch = np.empty(frames.shape, np.uint8)
    for row in range(6):
        copy_frame(frames, row, batch[row])
    np.testing.assert_array_equal(batch, expected[3:9])
    np.testing.assert_array_equal(frames[2:], expected[5:9])


def test_batches_of_encoded_frames_are_those_of_raw_ones(
    write_encoded, write_robomimic, robot_demos
):
    encoded, raw = (
        robot_demos(path, n_obs_steps=3).train_dataloader()
        for path in (write_encoded(name="encoded/demos.hdf5"), write_robomimic())
    )
    for batch, expected in zip(encoded, raw, strict=True):
        assert batch["images"]["front"].equal(expected["images"]["front"])
        assert batch["history"]["images"]["front"].equal(expected["history"]["images"]["front"])


def test_frames_of_a_file_that_was_closed_are_read_from_it_again(write_encoded, write_robomimic):
    reader = open_demos(write_encoded(), ["front"], [])
    frames = reader.stored_images("demo_1", 0, 24)["front"]
    reader.close()
    np.testing.assert_array_equal(np.asarray(frames), raw_frames(write_robomimic))


def test_a_frame_of_another_size_is_named_in_a_batch(write_encoded, robot_demos):
    path = write_encoded(lambda frames: [*frames[:-1], frames[-1][:8]])
    loader = robot_demos(path).train_dataloader()
    where = rf"{path}: .*demo_\d.*(frame 23|steps 23 to 24)"
    with pytest.raises(ValueError, match=f"{where}.* 16 x 16 pixels .*, got 8 x 16. Give the size"):
        list(loader)


def test_a_frame_of_another_size_is_resized_where_a_size_is_given(write_encoded):
    path = write_encoded(lambda frames: [*frames[:-1], frames[-1][:8, :8]])
    reader = open_demos(path, {"front": ViewSize(16, 16)}, [])
    assert reader.images("demo_1", 20, 24)["front"].shape == (4, 16, 16, 3)


def test_frames_in_another_file_are_decoded_at_once(write_encoded, write_robomimic):
    path = write_encoded()
    write_encoded(name="other.hdf5")
    with h5py.File(path, "a") as file:
        del file[f"data/demo_1/{KEY}"]
        file[f"data/demo_1/{KEY}"] = h5py.ExternalLink("other.hdf5", f"data/demo_1/{KEY}")
    frames = open_demos(path, ["front"], []).stored_images("demo_1", 0, 24)["front"]
    np.testing.assert_array_equal(frames, raw_frames(write_robomimic))
    assert isinstance(frames, np.ndarray)
