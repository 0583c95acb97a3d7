"""Frames of videos in any order."""

import numpy as np
import pytest

from e0_lightning.data.formats.video import Video
from recorders import make_frames, write_video


@pytest.fixture
def frames():
    return make_frames(np.random.default_rng(0), 25)


@pytest.fixture
def path(tmp_path, frames):
    path = tmp_path / "camera.mp4"
    write_video(path, frames)
    return path


def test_frames_are_the_same_in_any_order_of_reading(path, frames):
    video = Video(str(path))
    assert (len(video), video.size) == (25, (48, 64))
    whole = video.read(0, 25)
    assert np.abs(whole - frames.astype(int)).mean() < 3
    for start, stop in [(24, 25), (0, 1), (11, 14), (5, 7), (6, 7), (12, 25)]:
        np.testing.assert_array_equal(video.read(start, stop), whole[start:stop])


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"no video"])
def test_a_damaged_video_is_named(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path}: the video cannot be read"):
        Video(str(path)).read(0, len(Video(str(path))))


def test_damage_within_a_video_is_named_with_its_frames(path):
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start + 2000 : len(data) * 2 // 3] = bytes(len(data) * 2 // 3 - start - 2000)
    path.write_bytes(data)
    video = Video(str(path))
    with pytest.raises(ValueError, match=rf"{path}: the video cannot be read \(frame"):
        video.read(0, 25)


def test_the_extra_is_named_where_pyav_is_missing(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'e0-lightning\[video\]'"):
        Video(str(path)).read(0, 1)
