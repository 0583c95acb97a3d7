"""Single frames that are encoded as JPEG, PNG or WebP, or raw bytes among encoded ones."""

from __future__ import annotations

import io
from typing import Any, Final, NamedTuple

import h5py
import numpy as np

from e0_lightning.data.formats.stored_frames import Pixels

MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP"}
"""First bytes of encoded images."""

MAX_PIXELS: Final = 2**25
"""Most pixels of an encoded frame; more are refused before they are decoded."""

RAW_SIZES = ((720, 1280), (480, 640))
"""Rows and columns of raw frames that RoboMIND stores as bytes among encoded ones."""

RGB_COMMENT = b"XPL-RGB1"
"""Comment in JPEG images of RoboTwin that are RGB, beside older ones that are BGR."""

SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Segments of a JPEG image that hold its rows and columns."""

COMMENT_MARKER: Final = 0xFE
SCAN_MARKER: Final = 0xDA
"""Segment before the encoded pixels."""


def find_encoding(dataset: h5py.Dataset) -> str | None:
    """Encoding of images stored as bytes, such as ``JPEG``; None if they are not.

    Reads the first step only.
    """
    shape: tuple[int, ...] = dataset.shape or ()
    if len(shape) not in (1, 2) or 0 in shape:
        return None
    if dataset.dtype.kind not in "SOV" and dataset.dtype != np.uint8:
        return None
    first = dataset[0]
    if not isinstance(first, bytes | np.ndarray | np.void):
        return None
    data = to_bytes(first)
    if dataset.dtype.kind == "O" and _raw_size(data):
        return "raw bytes"
    head = data[:4].tobytes()
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def to_bytes(row: Any) -> Pixels:
    """Bytes of one row: variable-length, fixed-length, opaque or padded with zeros."""
    if isinstance(row, np.ndarray) and row.dtype == np.uint8:
        return row
    return np.frombuffer(row if isinstance(row, bytes) else row.tobytes(), np.uint8)


def _raw_size(data: Pixels) -> tuple[int, int] | None:
    return next((size for size in RAW_SIZES if len(data) == size[0] * size[1] * 3), None)


class Header(NamedTuple):
    """What the first bytes of an encoded frame say."""

    height: int
    width: int
    is_rgb: bool
    """Whether it is marked as RGB (`RGB_COMMENT`), whatever order the rest of the file has."""


def read_header(data: Pixels) -> Header:
    """Size of an encoded frame, without decoding it.

    Raises:
        ValueError: If these bytes are no image, or it has more than `MAX_PIXELS`.
    """
    if size := _raw_size(data):
        return Header(*size, is_rgb=False)
    header = _scan_jpeg(data.data) or _open_header(data)
    if header.height * header.width > MAX_PIXELS:
        raise ValueError(
            f"expected an image of at most {MAX_PIXELS} pixels, got {header.height} x "
            f"{header.width}. Copy or record the file again."
        )
    return header


def _scan_jpeg(data: memoryview) -> Header | None:
    """Header of a JPEG image by its segments, five times as fast as Pillow's; None if unclear."""
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    height, width, is_rgb, position = 0, 0, False, 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, start = data[position + 1], position + 4
        position += 2 + int.from_bytes(data[position + 2 : start], "big")
        if marker == SCAN_MARKER:
            return Header(height, width, is_rgb) if height and width else None
        if marker in SIZE_MARKERS:
            height = int.from_bytes(data[start + 1 : start + 3], "big")
            width = int.from_bytes(data[start + 3 : start + 5], "big")
        elif marker == COMMENT_MARKER:
            is_rgb = bytes(data[start:position]) == RGB_COMMENT
    return None


def _open_header(data: Pixels) -> Header:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=["JPEG", "PNG", "WEBP"]) as image:
            return Header(image.height, image.width, image.info.get("comment") == RGB_COMMENT)
    except Exception as error:  # Pillow raises many kinds
        raise ValueError(
            f"expected a JPEG or PNG image, got {len(data)} bytes that are none ({error}). Copy or "
            "record the file again."
        ) from error


def decode(data: Pixels) -> tuple[Pixels, bool]:
    """Decode a frame.

    Args:
        data: Its bytes, which may be padded.

    Returns:
        ``(h, w, 3)``, and whether it is marked as RGB.

    Raises:
        ValueError: If it cannot be decoded.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_image

    height, width, is_rgb = read_header(data)
    if _raw_size(data):
        return data.reshape(height, width, 3), is_rgb
    try:
        # PyTorch warns of arrays that cannot be written to.
        encoded = torch.from_numpy(data if data.flags.writeable else data.copy())
        pixels = decode_image(encoded, ImageReadMode.RGB)
    except RuntimeError as error:
        raise ValueError(
            f"its image of {len(data)} bytes is damaged and cannot be decoded. Copy or record the "
            "file again, or remove that demonstration."
        ) from error
    return pixels.permute(1, 2, 0).numpy(), is_rgb
