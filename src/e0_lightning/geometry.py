"""Sizes of camera frames, camera matrices and rotations, in numpy.

Camera frame: x right, y down, z forward. Pixel centres are at half-integers, so an image of h rows
and w columns covers ``[0, w]`` and ``[0, h]``. Rotations are right-handed. `envs` and `collection`
rotate cameras and grippers with `rotation_about`; the rotation of a batch on the GPU is in
``augment/spherical_warp.py``.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e0_lightning.types import ViewSize

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


class Placement(NamedTuple):
    """Where the frame of a camera goes in the image of a view, pixels."""

    top: int
    """First row of the crop."""
    left: int
    """First column of the crop."""
    height: int
    """Rows of the crop."""
    width: int
    """Columns of the crop."""
    rows: int
    """Rows that the crop has in the image."""
    columns: int
    """Columns that it has in the image."""
    above: int
    """Black rows above it."""
    before: int
    """Black columns to its left."""


def place(size: ViewSize, height: int, width: int) -> Placement:
    """Where frames of ``height`` rows and ``width`` columns go in images of ``size``.

    Raises:
        ValueError: If the crop leaves the frame.
    """
    top, left, rows, columns = 0, 0, height, width
    if size.crop is not None:
        edges = (height, width, height, width) if max(size.crop) <= 1 else (1, 1, 1, 1)
        top, left, rows, columns = (
            round(part * edge) for part, edge in zip(size.crop, edges, strict=True)
        )
        if top + rows > height or left + columns > width or not rows or not columns:
            raise ValueError(
                f"crop: expected [top, left, height, width] inside a frame of {height} x {width} "
                f"pixels, got {size.crop}."
            )
    scaled = size.height, size.width
    if size.fit == "pad":
        scale = min(size.height / rows, size.width / columns)
        scaled = max(1, round(rows * scale)), max(1, round(columns * scale))
    above, before = (size.height - scaled[0]) // 2, (size.width - scaled[1]) // 2
    return Placement(top, left, rows, columns, *scaled, above, before)


def resize_frames(frames: Pixels, size: ViewSize) -> Pixels:
    """Crop and resize frames of a camera to the images of a view, bilinear with antialiasing.

    Args:
        frames: ``(n, height, width, 3)`` uint8.
        size: Size of the images, and the rule.

    Returns:
        ``(n, h, w, 3)`` uint8; frames that have the size already are returned as they are.

    Raises:
        ValueError: If the crop leaves the frame.
    """
    at = place(size, *frames.shape[1:3])
    frames = frames[:, at.top : at.top + at.height, at.left : at.left + at.width]
    if (at.rows, at.columns) != frames.shape[1:3]:
        import torch
        from torch.nn.functional import interpolate

        channels_first = torch.from_numpy(np.require(frames, requirements=["C", "W"])).permute(
            0, 3, 1, 2
        )
        shape = (at.rows, at.columns)
        scaled = interpolate(channels_first, shape, mode="bilinear", antialias=True)
        frames = scaled.permute(0, 2, 3, 1).numpy()
    if (at.rows, at.columns) != (size.height, size.width):
        below, after = size.height - at.rows - at.above, size.width - at.columns - at.before
        frames = np.pad(frames, ((0, 0), (at.above, below), (at.before, after), (0, 0)))
    return frames


def resize_intrinsics(
    intrinsics: NDArray[np.float32], camera: tuple[int, int], size: ViewSize
) -> NDArray[np.float32]:
    """Camera matrix of the images that :func:`resize_frames` returns.

    Args:
        intrinsics: ``(3, 3)`` for the frames of the camera, pixels.
        camera: Rows and columns of those frames.
        size: Size of the images, and the rule.

    Returns:
        ``(3, 3)``, pixels.
    """
    at = place(size, *camera)
    x, y = at.columns / at.width, at.rows / at.height
    change = [[x, 0, at.before - x * at.left], [0, y, at.above - y * at.top], [0, 0, 1]]
    return np.asarray(np.array(change) @ intrinsics, dtype=np.float32)


def camera_matrix(fov: float, height: int, width: int) -> NDArray[np.float32]:
    """Camera matrix of an image with square pixels and its principal point in the middle.

    Args:
        fov: Vertical field of view of the camera, degrees, above 0 and below 180.
        height: Rows of the image, pixels.
        width: Columns of the image, pixels.

    Returns:
        ``(3, 3)``, pixels.

    Raises:
        ValueError: If the field of view is not between 0 and 180 degrees.
    """
    if not 0 < fov < 180:
        raise ValueError(f"field of view: expected degrees between 0 and 180, got {fov}.")
    focal = height / 2 / np.tan(np.deg2rad(fov) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=np.float32)


def rotation_about(axis: ArrayLike, angle: float) -> Floats:
    """Rotation matrix ``(3, 3)`` about a unit ``axis`` ``(3,)`` by ``angle`` in radians."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(angle * np.asarray(axis, dtype=float)).as_matrix())


def quaternion_to_matrix(quaternion: ArrayLike) -> Floats:
    """Rotation matrix ``(3, 3)`` of a quaternion wxyz of any length but zero.

    Raises:
        ValueError: If its length is zero.
    """
    from scipy.spatial.transform import Rotation

    w, x, y, z = np.asarray(quaternion, dtype=float)
    if not np.linalg.norm([w, x, y, z]) > 0:
        raise ValueError(f"expected a quaternion other than zero, got {quaternion!r}")
    return np.asarray(Rotation.from_quat([x, y, z, w]).as_matrix())


def quaternion_to_euler(quaternion: Floats) -> Floats:
    """Successive rotations about the fixed axes x, y and z.

    At ±90° about y only the sum or difference of the other two angles is defined; the angle about z
    is then 0.

    Args:
        quaternion: ``(n, 4)``, wxyz.

    Returns:
        ``(n, 3)``, radians, from -π to π.
    """
    from scipy.spatial.transform import Rotation

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gimbal lock")
        return np.asarray(Rotation.from_quat(quaternion[:, [1, 2, 3, 0]]).as_euler("xyz"))


def quaternion_to_axis_angle(quaternion: Floats) -> Floats:
    """Rotation vector ``(3,)`` of a unit quaternion xyzw, with angles up to 2π.

    The sign of the quaternion is kept, as robosuite does: w < 0 gives an angle above π. LIBERO's
    demonstrations were recorded so.
    """
    from scipy.spatial.transform import Rotation

    vector = np.asarray(Rotation.from_quat(quaternion).as_rotvec())
    angle = np.linalg.norm(vector)
    if quaternion[3] < 0 and angle > 0:
        vector = vector * (1 - 2 * np.pi / angle)
    return vector
