"""Images of clients: sizes, value ranges, compression."""

import io

import numpy as np
import pytest

from e0_lightning.benchmarks.hostile_clients import png
from e0_lightning.serving.images import EncodedImage, to_frame
from e0_lightning.types import ViewSize


def square(side):
    return ViewSize(side, side)


MAX_PIXELS = 2**20


def jpeg(side=64, **options):
    image = pytest.importorskip("PIL.Image")
    pixels = np.full((side, side, 3), 90, np.uint8)
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(16, 32, 3), (3, 16, 32), (1, 1, 16, 32, 3)])
def test_a_wide_image_is_scaled_to_fit_and_padded(shape):
    frame = to_frame(np.full(shape, 200, np.uint8), square(8), "image", MAX_PIXELS)
    assert frame.shape == (3, 8, 8)
    assert (frame[:, 2:6] == 200).all()
    assert frame.sum() == 200 * 3 * 4 * 8


def test_resizing_agrees_with_openpis():
    tools = pytest.importorskip("openpi_client.image_tools", reason="no openpi-client")
    smooth = np.linspace(0, 255, 48 * 64).reshape(48, 64, 1).repeat(3, 2).astype(np.uint8)
    ours = to_frame(smooth, square(24), "image", MAX_PIXELS).permute(1, 2, 0).numpy().astype(int)
    theirs = tools.resize_with_pad(smooth, 24, 24).astype(int)
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((16, 16, 4), np.uint8), r"\(height, width, 3\).*\(16, 16, 4\)"),
        (np.zeros((2, 16, 16, 3), np.uint8), r"\(2, 16, 16, 3\)"),
        (np.zeros((0, 16, 3), np.uint8), "with pixels"),
        (np.full((4, 4, 3), 255.0), "0 to 255"),
        (np.zeros((4, 4, 3), "<U1"), "got <U1"),
        (np.zeros((2048, 2048, 3), np.uint8), "at most 1048576 pixels, got 4194304"),
        ("an image", "got a str"),
        (EncodedImage(b"GIF89a" * 9), "PNG or JPEG"),
        (EncodedImage(png(4096)), "at most 1048576 pixels, got 16777216"),
        (EncodedImage(png(64)[:-30]), "PNG or JPEG"),
        (EncodedImage(b"\xff\xd8\xff\xe0\x00\x02"), "PNG or JPEG"),
    ],
)
def test_other_values_than_one_image_are_refused_by_key(image, error):
    with pytest.raises(ValueError, match=f"top: expected.*{error}"):
        to_frame(image, square(16), "top", MAX_PIXELS)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"a comment"}])
def test_jpegs_are_decoded(options):
    frame = to_frame(EncodedImage(jpeg(**options)), square(64), "top", MAX_PIXELS)
    assert (frame.float() - 90).abs().max() <= 1


def test_metadata_of_images_is_skipped():
    chunk = b"\x00\x00\x00\x00tEXt\x00\x00\x00\x00"  # without its checksum
    data = png(64)
    assert (
        to_frame(EncodedImage(data[:33] + chunk + data[33:]), square(64), "top", MAX_PIXELS).sum()
        == 0
    )
    with pytest.raises(ValueError, match="more than 4096 chunks"):
        to_frame(EncodedImage(data[:33] + chunk * 5000 + data[33:]), square(64), "top", MAX_PIXELS)
    data = jpeg()
    segment = b"\xff\xe1\x00\x02"
    assert (
        to_frame(EncodedImage(data[:2] + segment + data[2:]), square(64), "top", MAX_PIXELS).sum()
        > 0
    )
    with pytest.raises(ValueError, match="more than 256 segments"):
        to_frame(EncodedImage(data[:2] + segment * 5000 + data[2:]), square(64), "top", MAX_PIXELS)


def test_jpegs_with_many_scans_are_refused():
    data = jpeg(progressive=True)
    start = data.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match="at most 16 scans"):
        to_frame(
            EncodedImage(data[:-2] + data[start:-2] * 20 + data[-2:]), square(64), "top", MAX_PIXELS
        )
