"""Images of clients, raw or compressed, as the uint8 frames that a policy expects."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from e0_lightning.geometry import resize_frames
from e0_lightning.types import ViewSize

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_MAX_CHUNKS = 4096
"""Chunks of a PNG."""
_MAX_SEGMENTS = 256
"""Segments of a JPEG's header."""
_MAX_SCANS = 16
"""Scans of a progressive JPEG; each costs a pass over all pixels."""


class EncodedImage:
    """A PNG or JPEG that is decoded only if a policy needs it.

    Args:
        data: The file's bytes.

    Raises:
        ValueError: If they are not bytes.
    """

    def __init__(self, data: Any) -> None:
        if not isinstance(data, bytes):
            raise ValueError(f"expected a PNG or JPEG as bytes, got a {type(data).__name__}")
        self.data = data
        self.is_png = data.startswith(_PNG)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height from the header, without decoding.

        Raises:
            ValueError: If it is neither a PNG nor a JPEG, or the header is damaged.
        """
        if self.is_png and self.data[12:16] == b"IHDR" and len(self.data) >= 33:
            width, height = struct.unpack_from(">II", self.data, 16)
            return width, height
        if self.data.startswith(b"\xff\xd8"):
            return _jpeg_size(self.data)
        raise ValueError(f"got {len(self.data)} bytes of another format, or damaged")

    def decode(self) -> np.ndarray[Any, Any]:
        """Pixels as Pillow decodes them, ``(height, width, channels)`` for color images."""
        from PIL import Image

        # Metadata is removed because Pillow spends time on each piece of it.
        data = _bare_png(self.data) if self.is_png else _bare_jpeg(self.data)
        formats = ["PNG" if self.is_png else "JPEG"]
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.size != self.size:
                raise ValueError(f"expected {self.size} pixels by its header, got {image.size}")
            return np.asarray(image)


def count_pixels(image: Any) -> int:
    """Pixels of an image that is still to be decoded or resized; 0 if there are none.

    Raises:
        ValueError: If it is a compressed image with a damaged header.
    """
    if isinstance(image, EncodedImage):
        width, height = image.size
        return width * height
    return image.size // 3 if isinstance(image, np.ndarray) else 0


def to_frame(image: Any, size: ViewSize, key: str, max_pixels: int) -> Tensor:
    """Bring one RGB image to the policy's format.

    Args:
        image: ``(height, width, 3)`` or ``(3, height, width)``, uint8 or floats from 0 to 1, or a
            compressed image; leading dimensions of size one are dropped.
        size: Size of the policy's images, and how frames of cameras are brought to it. An image
            that has it already is left as it is, unless the camera's frames have the same size.
        key: Its key in the message, for errors.
        max_pixels: Most pixels that are decoded.

    Returns:
        ``(3, h, w)`` uint8.

    Raises:
        ValueError: If it is not such an image, not finite or too large.
    """
    if not isinstance(image, np.ndarray | EncodedImage):
        raise ValueError(f"{key}: expected an image array, got a {type(image).__name__}.")
    try:
        pixels = count_pixels(image)
        if pixels <= max_pixels and isinstance(image, EncodedImage):
            image = image.decode()
    except Exception as error:  # Pillow raises many kinds
        raise ValueError(f"{key}: expected a PNG or JPEG image: {error}") from error
    if pixels > max_pixels:
        raise ValueError(
            f"{key}: expected at most {max_pixels} pixels, got {pixels}. Send smaller images, or "
            "raise --limits.max_pixels of the server."
        )
    frame = _to_uint8(_channels_last(image, key), key)
    if frame.shape[:2] == size.camera_size or frame.shape[:2] != (size.height, size.width):
        try:
            frame = resize_frames(frame[None], size)[0]
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
    return torch.from_numpy(np.array(frame.transpose(2, 0, 1), order="C"))


def _channels_last(array: np.ndarray[Any, Any], key: str) -> np.ndarray[Any, Any]:
    shape = array.shape
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    elif array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"{key}: expected one RGB image, (height, width, 3) or (3, height, width), got shape "
            f"{shape}."
        )
    if 0 in array.shape:
        raise ValueError(f"{key}: expected an image with pixels, got shape {shape}.")
    return array


def _to_uint8(pixels: np.ndarray[Any, Any], key: str) -> np.ndarray[Any, Any]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise ValueError(f"{key}: expected uint8 pixels or floats in [0, 1], got {pixels.dtype}.")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # true for NaN as well
        raise ValueError(
            f"{key}: expected float pixels from 0 to 1, got {low:g} to {high:g}. Send uint8 for "
            "0 to 255."
        )
    return np.asarray((pixels.astype(np.float32) * 255).round().astype(np.uint8))


def _bare_png(data: bytes) -> bytes:
    """A PNG without its metadata chunks."""
    kept, position = [_PNG], len(_PNG)
    for _ in range(_MAX_CHUNKS):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if name in _PNG_CHUNKS:
            kept.append(data[position:end])
        if name == b"IEND":
            return b"".join(kept)
        position = end
    raise ValueError(f"more than {_MAX_CHUNKS} chunks")


def _jpeg_segments(data: bytes) -> list[tuple[int, int, int]]:
    """Marker, start and end of each segment before the first scan."""
    segments, position = [], 2
    for _ in range(_MAX_SEGMENTS):
        start, marker, length = struct.unpack_from(">BBH", data, position)
        if start != 0xFF or length < 2:
            raise ValueError("the header is damaged")
        segments.append((marker, position, position + 2 + length))
        if marker == 0xDA:
            return segments
        position += 2 + length
    raise ValueError(f"more than {_MAX_SEGMENTS} segments")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    try:
        for marker, start, _ in _jpeg_segments(data):
            if marker in _JPEG_FRAMES:
                height, width = struct.unpack_from(">HH", data, start + 5)
                return width, height
    except struct.error:
        pass
    raise ValueError("the header is damaged")


def _bare_jpeg(data: bytes) -> bytes:
    """A JPEG without metadata segments, its number of scans checked."""
    segments = _jpeg_segments(data)
    scans = data.count(b"\xff\xda", segments[-1][1])
    if scans > _MAX_SCANS:
        raise ValueError(f"expected at most {_MAX_SCANS} scans, got {scans}")
    header = [data[a:b] for marker, a, b in segments[:-1] if marker not in _JPEG_METADATA]
    return b"".join([b"\xff\xd8", *header, data[segments[-1][1] :]])
