"""Pixel maps of a pinhole camera whose scene is rotated about its optical centre.

Convention: camera frame x right, y down, z forward, rotations right-handed. Pixel coordinates
``(u, v)`` run right and down with pixel centres at half-integers, so an image of side S covers
``[0, S]`` and its centre is ``S / 2``. Rotating the scene by ``R`` equals turning the camera by
``R^T``: a positive yaw moves the scene right (the camera turned left), a positive pitch moves it
up (the camera turned down).

The products here are sums of elementwise products: a matrix multiplication would be rounded to
TF32 or bfloat16 where the user asked for that, which shifts pixels by whole fractions of a pixel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotation(yaw: Tensor, pitch: Tensor) -> Tensor:
    """Rotation of the scene, ``R = R_x(pitch) R_y(yaw)`` (E0, eq. 15 and 16).

    Args:
        yaw: Turn about y (down), ``(B,)``, radians; positive moves the scene right.
        pitch: Turn about x (right), ``(B,)``, radians; positive moves the scene up.

    Returns:
        ``(B, 3, 3)``, float32 or wider.
    """
    if not yaw.dtype == pitch.dtype == torch.float64:
        yaw, pitch = yaw.float(), pitch.float()
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    about_x = _matrix(
        one, zero, zero, zero, pitch.cos(), -pitch.sin(), zero, pitch.sin(), pitch.cos()
    )
    about_y = _matrix(yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos())
    return _product(about_x, about_y)


def intrinsics_from_fov(fov: float, side: int) -> Tensor:
    """Camera matrix of a square image with its principal point in the middle.

    Args:
        fov: Angle between opposite edges of the image, degrees, above 0 and below 180.
        side: Image side S, pixels.

    Returns:
        ``(3, 3)`` float32, pixels.

    Raises:
        ValueError: If the field of view is not between 0 and 180 degrees.
    """
    if not 0 < fov < 180:
        raise ValueError(f"A field of view lies between 0 and 180 degrees, got {fov}.")
    focal = side / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])


def homography(rotation: Tensor, intrinsics: Tensor) -> Tensor:
    """Map from source to warped pixel when the scene rotates, ``H = C R C^-1`` (E0, eq. 7 and 17).

    The depth of a point cancels, so the map holds for every scene. The rotation's transpose gives
    the way back.

    Args:
        rotation: ``R``, ``(B, 3, 3)``.
        intrinsics: ``C``, ``(B, 3, 3)``, upper triangular, pixels.

    Returns:
        ``(B, 3, 3)``, for homogeneous pixels ``(u, v, 1)``.
    """
    intrinsics = intrinsics.to(rotation.dtype)
    return _product(_product(intrinsics, rotation), _inverse(intrinsics))


def transform(homography: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Send pixels through a homography.

    Args:
        homography: ``(B, 3, 3)``.
        u: Columns, in a shape that broadcasts with v's and starts with B or 1.
        v: Rows, the same.

    Returns:
        ``(pixels, depth)``: the new ``(u, v)`` of each, ``(B, …, 2)``, and how far in front of the
        camera its point now lies, ``(B, …)``, in units of the old depth. Where depth is not
        positive the point is behind the camera and the pixel means nothing.
    """
    columns = homography.view(-1, *(1,) * (max(u.ndim, v.ndim) - 1), 3, 3).unbind(-1)
    # A row and a column of pixels fit_normalizers in the last sum only, so a grid costs two operations.
    moved = columns[0] * u.unsqueeze(-1) + (columns[1] * v.unsqueeze(-1) + columns[2])
    depth = moved[..., 2]
    return moved[..., :2] / depth.clamp(min=torch.finfo(depth.dtype).eps).unsqueeze(-1), depth


def _matrix(*entries: Tensor) -> Tensor:
    """Nine ``(B,)`` entries, row by row, as ``(B, 3, 3)``."""
    return torch.stack(entries, dim=-1).view(-1, 3, 3)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in full precision, ``(B, 3, 3)``."""
    return torch.sum(left.unsqueeze(-1) * right.unsqueeze(-3), dim=-2)


def _inverse(intrinsics: Tensor) -> Tensor:
    """Inverse of ``[[fx, skew, cx], [0, fy, cy], [0, 0, 1]]``, ``(B, 3, 3)``."""
    fx, skew, cx = intrinsics[:, 0].unbind(-1)
    _, fy, cy = intrinsics[:, 1].unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    right = (skew * cy / fy - cx) / fx
    return _matrix(1 / fx, -skew / (fx * fy), right, zero, 1 / fy, -cy / fy, zero, zero, one)
