import io

import numpy as np
import pytest
from PIL import Image

from e0_lightning.data.formats.encoded import RGB_COMMENT, _open_header, _scan_jpeg, read_header

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8))
EXIF = Image.Exif()
EXIF[0x010E] = "x" * 5000

JPEG = {
    "baseline": {},
    "progressive": {"progressive": True},
    "exif": {"exif": EXIF},
    "comment": {"comment": b"made by hand"},
    "marked": {"comment": RGB_COMMENT},
    "optimized": {"optimize": True, "subsampling": 0},
}


def encode(image=IMAGE, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


@pytest.mark.parametrize("kind", JPEG)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_header_of_a_jpeg_image_is_pillows(kind, mode):
    data = encode(IMAGE.convert(mode), **JPEG[kind])
    assert _scan_jpeg(data.data) == _open_header(data) == (40, 56, kind == "marked")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_images_are_left_to_pillow(kind):
    data = encode(kind=kind)
    assert _scan_jpeg(data.data) is None
    assert read_header(data) == (40, 56, False)


def test_a_header_that_ends_early_is_refused():
    data = encode()
    for length in (2, 3, 20, 160):
        with pytest.raises(ValueError, match="expected a JPEG or PNG image"):
            read_header(data[:length])
