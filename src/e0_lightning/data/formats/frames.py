"""Camera frames in every encoding that recorders use, as RGB of uint8, steps first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.encoded import decode, find_encoding, read_header, to_bytes
from e0_lightning.data.formats.stored_frames import Pixels, StoredFrames, copy_pixels
from e0_lightning.geometry import resize_frames
from e0_lightning.key_map import Flip
from e0_lightning.types import ViewSize

Frames = Pixels | StoredFrames | list[Pixels]
"""Frames ``(n, h, w, 3)``, or n frames ``(h, w, 3)`` of different sizes."""

Color = Literal["rgb", "bgr"]

EXPECTED = (
    "expected frames of uint8 or of floats from 0 to 1, (T, h, w, 3), with one or four channels, "
    "or channels first; or JPEG or PNG bytes for each step"
)


def frame_size(dataset: h5py.Dataset) -> tuple[int, int]:
    """Rows and columns ``(h, w)`` of the first frame, from its header.

    Raises:
        ValueError: If the data set holds no frames, naming what it holds.
    """
    if find_encoding(dataset):
        with name_frame(dataset, 0):
            header = read_header(to_bytes(dataset[0]))
        return header.height, header.width
    axes = _find_axes(dataset)
    if dataset.dtype.kind == "f":
        _from_unit(dataset[:1], dataset, 0)
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
    if rows.ndim < 3:
        frames = []
        for step, row in enumerate(rows, start):
            with name_frame(dataset, step):
                frame, is_rgb = decode(to_bytes(row))
            frames.append(frame[..., ::-1] if color == "bgr" and not is_rgb else frame)
        return frames[0][None] if len(frames) == 1 else _stack(frames)
    axes = _find_axes(dataset)
    if "c" not in axes:
        rows = rows[..., None]
    elif axes == "tchw":
        rows = rows.transpose(0, 2, 3, 1)
    rows = np.repeat(rows, 3, axis=3) if rows.shape[3] == 1 else rows[..., :3]
    if rows.dtype != np.uint8:
        rows = _from_unit(rows, dataset, start)
    return rows[..., ::-1] if color == "bgr" else rows


@contextmanager
def name_frame(dataset: h5py.Dataset, step: int) -> Iterator[None]:
    """Name the frame in an error of decoding it."""
    try:
        yield
    except ValueError as error:
        where = f"{dataset.file.filename}: {dataset.name}, frame {step}"
        raise ValueError(f"{where}: {error}") from error


def _stack(frames: list[Pixels]) -> Pixels | list[Pixels]:
    """Stack frames of one size and order of channels, which stays as it is in memory."""
    if len({(frame.shape, frame.strides[-1] < 0) for frame in frames}) > 1:
        return frames
    if frames[0].strides[-1] < 0:
        stored: Pixels = np.stack([frame[..., ::-1] for frame in frames])
        return stored[..., ::-1]
    return np.stack(frames)


def flip(frames: Frames, how: Flip | None) -> Frames:
    """Turn frames upright that are stored upside down, mirrored or both."""
    if how is None:
        return frames
    frames = frames.read() if isinstance(frames, StoredFrames) else frames
    rows = slice(None, None, -1 if how in ("vertical", "both") else 1)
    columns = slice(None, None, -1 if how in ("horizontal", "both") else 1)
    if isinstance(frames, list):
        return [frame[rows, columns] for frame in frames]
    return frames[:, rows, columns]


def resize(frames: Frames, size: ViewSize, is_given: bool, where: str) -> Pixels | StoredFrames:
    """Bring the frames of a view to the size of its images.

    Args:
        frames: As recorded.
        size: Size of the images, and the rule.
        is_given: Whether the user gave that size; otherwise frames must have it.
        where: File, demonstration, steps and view, for errors.

    Returns:
        ``(n, h, w, 3)``, as they are stored where they have that size.

    Raises:
        ValueError: If they are not RGB of uint8, or change in size where no size is given.
    """
    if isinstance(frames, StoredFrames):
        is_uniform = frames.is_uniform or not is_given  # where no size is given others are refused
        if is_uniform and frames.shape[1:] == (size.height, size.width, 3) and size.crop is None:
            return frames
        frames = frames.read()
    groups = [frames] if isinstance(frames, np.ndarray) else [frame[None] for frame in frames]
    for group in groups:
        if group.shape[0::3] != (len(group), 3) or group.ndim != 4 or group.dtype != np.uint8:
            raise ValueError(
                f"{where}: expected (n, h, w, 3) of uint8, got {group.shape} of {group.dtype}."
            )
        if not is_given and group.shape[1:3] != (size.height, size.width):
            raise ValueError(
                f"{where}: expected frames of {size.height} x {size.width} pixels as in the first "
                f"demonstration, got {group.shape[1]} x {group.shape[2]}. Give the size of the "
                "images: data.views: {<view>: {height: …, width: …}}."
            )
    resized = [_resize_stored(group, size) for group in groups]
    return resized[0] if len(resized) == 1 else np.concatenate(resized)


def _resize_stored(frames: Pixels, size: ViewSize) -> Pixels:
    """Resize frames; BGR ones, which are views of reversed channels, before they are copied."""
    if frames.strides[-1] > 0:
        return resize_frames(frames, size)
    stored = resize_frames(frames[..., ::-1], size)
    swapped = np.empty_like(stored)
    copy_pixels(stored[..., ::-1], swapped)
    return swapped


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
            f"{dataset.file.filename}: {dataset.name}, frames {start} to {start + len(rows)}: "
            f"expected float pixels from 0 to 1, got {low:g} to {high:g}. Write pixels from 0 to "
            "255 as uint8."
        )
    return np.asarray((rows.astype(np.float32) * 255).round().astype(np.uint8))
