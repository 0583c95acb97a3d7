"""Which data sets hold camera frames: raw RGB of uint8, steps first."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP"}
"""First bytes of encoded images."""


def check_frames(dataset: h5py.Dataset, square: bool = True) -> None:
    """Refuse a data set that does not hold raw RGB frames, ``(T, h, w, 3)`` uint8.

    Args:
        dataset: What should be the images of a view.
        square: Whether h must equal w.

    Raises:
        ValueError: If it does not, naming what it holds and what to do.
    """
    problem = _problem(dataset, square)
    if problem:
        raise ValueError(f"{dataset.file.filename}: {dataset.name} {problem}")


def _problem(dataset: h5py.Dataset, square: bool) -> str:
    expected = "expected (T, S, S, 3) of uint8" if square else "expected (T, h, w, 3) of uint8"
    if encoding := find_encoding(dataset):
        return (
            f"holds encoded images ({encoding}): {expected}. Decode them, and mind that images "
            "written with OpenCV are BGR after decoding with anything else."
        )
    shape: tuple[int, ...] = dataset.shape or ()
    got = f"{expected}, got {shape} of {dataset.dtype}"
    if len(shape) == 3 or (len(shape) == 4 and shape[3] == 1):
        return f"holds images of one channel (grey, depth or a mask): {got}. Repeat it to RGB."
    if len(shape) == 4 and shape[3] == 4:
        return f"holds images of four channels: {got}. Drop the fourth, if it is alpha."
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        return f"holds images with channels first: {got}. Transpose them with (0, 2, 3, 1)."
    if len(shape) != 4 or shape[3] != 3:
        return f"holds no images: {got}."
    if dataset.dtype != np.uint8:
        return (
            f"holds images of {dataset.dtype}, not uint8: {got}. Write them as uint8, 0 to 255; "
            "multiply floats from 0 to 1 by 255."
        )
    if square and shape[1] != shape[2]:
        return (
            f"holds frames of {shape[1]} by {shape[2]} pixels: {got}. Render them with a square "
            "camera."
        )
    return ""


def find_encoding(dataset: h5py.Dataset) -> str | None:
    """Encoding of images stored as bytes, such as ``JPEG``; None if they are not.

    Reads the first step only.
    """
    shape: tuple[int, ...] = dataset.shape or ()
    if len(shape) not in (1, 2) or 0 in shape:
        return None
    if dataset.dtype.kind not in "SOV" and dataset.dtype != np.uint8:
        return None
    first = np.asarray(dataset[0]).tobytes() if dataset.dtype.kind != "O" else _bytes(dataset[0])
    return next((name for magic, name in MAGIC.items() if first.startswith(magic)), None)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else np.asarray(value).tobytes()[:16]


def is_vector(dataset: h5py.Dataset | h5py.Group, steps: int) -> bool:
    """Whether a data set has one number or vector of numbers for each of ``steps`` steps."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
        return False
    shape: tuple[int, ...] = dataset.shape or ()
    return len(shape) in (1, 2) and shape[0] == steps and not find_encoding(dataset)


def pad_to_square(frames: Pixels) -> Pixels:
    """Center frames ``(n, h, w, 3)`` on black squares ``(n, S, S, 3)``, S the longer edge.

    The server pads the images of its clients in the same way.
    """
    height, width = frames.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = (top, side - height - top), (left, side - width - left)
    return frames if height == width else np.pad(frames, ((0, 0), *edges, (0, 0)))
