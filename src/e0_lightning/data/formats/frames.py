"""Camera frames in every encoding that recorders use, as RGB of uint8, steps first."""

from __future__ import annotations

import io
from typing import Any, Final, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Color = Literal["rgb", "bgr"]

MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP"}
"""First bytes of encoded images."""

MAX_PIXELS: Final = 2**25
"""Most pixels of an encoded frame; more are refused before they are decoded."""

RAW_SIZES = ((720, 1280), (480, 640))
"""Rows and columns of raw frames that RoboMIND stores as bytes among encoded ones."""

EXPECTED = (
    "expected frames of uint8 or of floats from 0 to 1, (T, h, w, 3), with one or four channels, "
    "or channels first; or JPEG or PNG bytes for each step"
)


def frame_size(dataset: h5py.Dataset) -> tuple[int, int]:
    """Rows and columns ``(h, w)`` of the first frame, without decoding it.

    Raises:
        ValueError: If the data set holds no frames, naming what it holds.
    """
    if find_encoding(dataset):
        where = f"{dataset.file.filename}: {dataset.name}, step 0"
        return _encoded_size(_to_bytes(dataset[0]), where)
    axes = _find_axes(dataset)
    return dataset.shape[axes.index("h")], dataset.shape[axes.index("w")]


def is_colored(member: h5py.Dataset | h5py.Group) -> bool:
    """Whether a member of a file holds frames in color: encoded, or of three or four channels."""
    if not isinstance(member, h5py.Dataset):
        return False
    if find_encoding(member):
        return True
    try:
        axes = _find_axes(member)
    except ValueError:
        return False
    return "c" in axes and member.shape[axes.index("c")] >= 3


def to_rgb(
    dataset: h5py.Dataset, rows: NDArray[Any], start: int, color: Color = "rgb"
) -> Pixels | list[Pixels]:
    """Convert rows of a data set of frames.

    Grey frames are repeated to three channels, and the fourth channel is dropped. Rows with raw
    frames among encoded ones are taken as they are.

    Args:
        dataset: Where the rows were read.
        rows: Steps ``start`` to ``start + n`` as h5py returns them.
        start: Their first step, for errors.
        color: Order of the channels in the file; of encoded frames, after decoding.

    Returns:
        ``(n, h, w, 3)`` RGB; a list of n arrays ``(h, w, 3)`` if frames differ in size.

    Raises:
        ValueError: If a frame cannot be decoded, or floats are not between 0 and 1.
    """
    if dataset.ndim < 3:
        where = f"{dataset.file.filename}: {dataset.name}"
        frames = [_decode(_to_bytes(r), f"{where}, step {start + i}") for i, r in enumerate(rows)]
        if color == "bgr":
            frames = [frame[..., ::-1] for frame in frames]
        return np.stack(frames) if len({frame.shape for frame in frames}) == 1 else frames
    axes = _find_axes(dataset)
    if "c" not in axes:
        rows = rows[..., None]
    elif axes == "tchw":
        rows = rows.transpose(0, 2, 3, 1)
    rows = np.repeat(rows, 3, axis=3) if rows.shape[3] == 1 else rows[..., :3]
    if rows.dtype != np.uint8:
        rows = _from_unit(rows, dataset, start)
    return rows[..., ::-1] if color == "bgr" else rows


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
    first = dataset[0]
    if not isinstance(first, bytes | np.ndarray | np.void):
        return None
    data = _to_bytes(first)
    if dataset.dtype.kind == "O" and _raw_size(data):
        return "raw bytes"
    head = data[:4].tobytes()
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def is_vector(dataset: h5py.Dataset | h5py.Group, steps: int) -> bool:
    """Whether a data set has one number or vector of numbers for each of ``steps`` steps."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
        return False
    shape: tuple[int, ...] = dataset.shape or ()
    return len(shape) in (1, 2) and shape[0] == steps and not find_encoding(dataset)


def _find_axes(dataset: h5py.Dataset) -> str:
    """Axes of raw frames: ``thwc``, ``tchw`` or ``thw``.

    Raises:
        ValueError: If these are no frames.
    """
    shape: tuple[int, ...] = dataset.shape or ()
    axes = {3: "thw", 4: "thwc"}.get(len(shape), "")
    if axes == "thwc" and shape[3] not in (1, 3, 4):
        axes = "tchw" if shape[1] in (1, 3, 4) else ""
    if not axes or 0 in shape or (dataset.dtype != np.uint8 and dataset.dtype.kind != "f"):
        raise ValueError(
            f"{dataset.file.filename}: {dataset.name}: {EXPECTED}; got {shape} of {dataset.dtype}."
        )
    return axes


def _from_unit(rows: NDArray[Any], dataset: h5py.Dataset, start: int) -> Pixels:
    low, high = rows.min(), rows.max()
    if not (low >= 0 and high <= 1):  # true for NaN as well
        raise ValueError(
            f"{dataset.file.filename}: {dataset.name}, steps {start} to {start + len(rows)}: "
            f"expected float pixels from 0 to 1, got {low:g} to {high:g}. Write pixels from 0 to "
            "255 as uint8."
        )
    return np.asarray((rows.astype(np.float32) * 255).round().astype(np.uint8))


def _to_bytes(row: Any) -> Pixels:
    """Bytes of one row: variable-length, fixed-length, opaque or padded with zeros."""
    if isinstance(row, np.ndarray) and row.dtype == np.uint8:
        return row
    return np.frombuffer(row if isinstance(row, bytes) else row.tobytes(), np.uint8)


def _raw_size(data: Pixels) -> tuple[int, int] | None:
    return next((size for size in RAW_SIZES if len(data) == size[0] * size[1] * 3), None)


def _encoded_size(data: Pixels, where: str) -> tuple[int, int]:
    """Rows and columns in the header of an encoded frame."""
    from PIL import Image

    if size := _raw_size(data):
        return size
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP"]) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises many kinds
        raise ValueError(
            f"{where}: expected a JPEG or PNG image, got {len(data)} bytes that are none "
            f"({error}). Copy or record the file again."
        ) from error
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{where}: expected an image of at most {MAX_PIXELS} pixels, got {height} × {width}. "
            "Copy or record the file again."
        )
    return height, width


def _decode(data: Pixels, where: str) -> Pixels:
    """Decode one frame, ``(h, w, 3)``, channels in their stored order."""
    import torch
    from torchvision.io import ImageReadMode, decode_image

    height, width = _encoded_size(data, where)
    if _raw_size(data):
        return data.reshape(height, width, 3)
    try:
        pixels = decode_image(torch.from_numpy(np.array(data)), ImageReadMode.RGB)
    except RuntimeError as error:
        raise ValueError(
            f"{where}: its image of {len(data)} bytes is damaged and cannot be decoded. Copy or "
            "record the file again, or remove that demonstration."
        ) from error
    return np.asarray(pixels.permute(1, 2, 0).numpy())


def pad_to_square(frames: Pixels) -> Pixels:
    """Center frames ``(n, h, w, 3)`` on black squares ``(n, S, S, 3)``, S the longer edge.

    The server pads the images of its clients in the same way.
    """
    height, width = frames.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = (top, side - height - top), (left, side - width - left)
    return frames if height == width else np.pad(frames, ((0, 0), *edges, (0, 0)))
