"""Images of a pinhole camera that is rotated about its optical centre.

Convention: camera frame x right, y down, z forward, rotations right-handed. Pixel coordinates
``(u, v)`` run right and down with pixel centres at half-integers, so an image covers ``[0, w]`` and
``[0, h]``. Rotating the scene by ``R`` equals rotating the camera by ``R^T``: a positive yaw moves
the scene right (the camera turns left), a positive pitch moves it up (the camera turns down).

Matrix products are sums of elementwise products: a matrix multiplication would be rounded to TF32
or bfloat16 where the user allows that, which moves pixels by fractions of a pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from e0_lightning.random import sample_uniform


class SphericalWarp:
    """Spherical viewpoint perturbation (E0, eq. 7 and 15-17): a rotation, in which depth cancels.

    Args:
        max_yaw: Largest rotation left or right that `sample` returns, degrees, in [0, 90).
        max_pitch: Largest rotation up or down that `sample` returns, degrees, in [0, 90).

    Raises:
        ValueError: If a limit is outside [0, 90).
    """

    def __init__(self, max_yaw: float = 15.0, max_pitch: float = 15.0) -> None:
        for name, limit in (("max_yaw", max_yaw), ("max_pitch", max_pitch)):
            if not 0 <= limit < 90:
                raise ValueError(f"{name}: expected degrees from 0 to below 90, got {limit}.")
        self.max_yaw = max_yaw
        self.max_pitch = max_pitch

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample rotations uniformly within the limits.

        Args:
            batch: Number of samples B.
            generator: Source of randomness; the result is on its device.

        Returns:
            ``(yaw, pitch)``, ``(B,)`` each, radians.
        """
        unit = sample_uniform((2, batch), generator) * 2 - 1
        limits = unit.new_tensor([[self.max_yaw], [self.max_pitch]]).deg2rad()
        yaw, pitch = unit * limits
        return yaw, pitch

    def warp(
        self, images: Tensor, yaw: Tensor, pitch: Tensor, intrinsics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rotate the scene by ``R_x(pitch) R_y(yaw)``, with bilinear sampling.

        An image with both angles zero is returned unchanged, to the bit; uint8 images are returned
        as uint8, rounded.

        Args:
            images: ``(B, 3, h, w)``, uint8 or floating point.
            yaw: ``(B,)``, radians; positive moves the scene right.
            pitch: ``(B,)``, radians; positive moves the scene up.
            intrinsics: Camera matrices ``(B, 3, 3)`` for images of this size, pixels.

        Returns:
            ``(warped, valid)``: images of the same shape and type, black outside of the source, and
            ``(B, 1, h, w)`` bool, true where the pixel's centre is inside the source.

        Raises:
            ValueError: If shapes do not fit.
        """
        _check_shapes(images, yaw, pitch, intrinsics)
        height, width = images.shape[-2:]
        back = homography(rotation(yaw, pitch).mT, _from_edge_to_edge(intrinsics, width, height))
        u, v = (_centres(side, back) for side in (width, height))
        grid, depth = transform(back, u.view(1, 1, -1), v.view(1, -1, 1))
        inside = (depth > 0) & (grid[..., 0].abs() <= 1) & (grid[..., 1].abs() <= 1)
        valid = inside.unsqueeze(1)

        unchanged = ((yaw == 0) & (pitch == 0)).view(-1, 1, 1, 1)
        return torch.where(unchanged, images, resample(images, grid, valid)), valid


def resample(images: Tensor, grid: Tensor, valid: Tensor) -> Tensor:
    """Images ``(B, 3, h, w)`` at the places of a grid, bilinear, in their own type.

    Args:
        images: uint8, to which results are rounded, or floating point.
        grid: ``(B, h, w, 2)``, columns and rows from -1 to 1, the edges of the image.
        valid: ``(B, 1, h, w)`` bool; black elsewhere.
    """
    source = images.to(torch.promote_types(images.dtype, torch.float32))
    # In the outermost half pixel, bilinear sampling repeats the border.
    sampled = functional.grid_sample(
        source, grid.to(source.dtype), padding_mode="border", align_corners=False
    )
    if not images.is_floating_point():
        sampled = sampled.round_()
    return sampled.to(images.dtype).masked_fill(~valid, 0)


def rotation(yaw: Tensor, pitch: Tensor) -> Tensor:
    """Rotation of the scene, ``R = R_x(pitch) R_y(yaw)`` (E0, eq. 15 and 16).

    Args:
        yaw: Angle about y (down), ``(B,)``, radians; positive moves the scene right.
        pitch: Angle about x (right), ``(B,)``, radians; positive moves the scene up.

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
    return matrix_product(about_x, about_y)


def homography(rotation: Tensor, intrinsics: Tensor) -> Tensor:
    """Map from source to warped pixel when the scene rotates, ``H = C R C^-1`` (E0, eq. 7 and 17).

    The depth of a point cancels, so the map holds for every scene. The rotation's transpose gives
    the inverse map.

    Args:
        rotation: ``R``, ``(B, 3, 3)``.
        intrinsics: ``C``, ``(B, 3, 3)``, upper triangular, pixels.

    Returns:
        ``(B, 3, 3)``, for homogeneous pixels ``(u, v, 1)``.
    """
    intrinsics = intrinsics.to(rotation.dtype)
    return matrix_product(matrix_product(intrinsics, rotation), _inverse(intrinsics))


def transform(homography: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Map pixels by a homography.

    Args:
        homography: ``(B, 3, 3)``.
        u: Columns, in a shape that broadcasts with v's and starts with B or 1.
        v: Rows, the same.

    Returns:
        ``(pixels, depth)``: the new ``(u, v)`` of each, ``(B, …, 2)``, and the new depth of its
        point, ``(B, …)``, in units of the old one. Where depth is not positive the point is behind
        the camera and the pixel is undefined.
    """
    columns = homography.view(-1, *(1,) * (max(u.ndim, v.ndim) - 1), 3, 3).unbind(-1)
    # u and v meet in the last sum only, so that a grid costs two operations.
    moved = columns[0] * u.unsqueeze(-1) + (columns[1] * v.unsqueeze(-1) + columns[2])
    depth = moved[..., 2]
    return moved[..., :2] / depth.clamp(min=torch.finfo(depth.dtype).eps).unsqueeze(-1), depth


def _matrix(*entries: Tensor) -> Tensor:
    """Nine ``(B,)`` entries, row by row, as ``(B, 3, 3)``."""
    return torch.stack(entries, dim=-1).view(-1, 3, 3)


def matrix_product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in full precision, ``(B, 3, 3)``."""
    return torch.sum(left.unsqueeze(-1) * right.unsqueeze(-3), dim=-2)


def _inverse(intrinsics: Tensor) -> Tensor:
    """Inverse of ``[[fx, skew, cx], [0, fy, cy], [0, 0, 1]]``, ``(B, 3, 3)``."""
    fx, skew, cx = intrinsics[:, 0].unbind(-1)
    _, fy, cy = intrinsics[:, 1].unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    right = (skew * cy / fy - cx) / fx
    return _matrix(1 / fx, -skew / (fx * fy), right, zero, 1 / fy, -cy / fy, zero, zero, one)


def _from_edge_to_edge(intrinsics: Tensor, width: int, height: int) -> Tensor:
    """Camera matrix in the coordinates of ``grid_sample``: -1 and 1 are the image's outer edges."""
    to_unit = intrinsics.new_tensor([[2 / width], [2 / height], [1]])
    origin = intrinsics.new_tensor([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    return intrinsics * to_unit - origin


def _centres(side: int, like: Tensor) -> Tensor:
    """Centres of a row of pixels, from -1 to 1, ``(side,)``."""
    return (2 * torch.arange(side, dtype=like.dtype, device=like.device) + 1) / side - 1


def _check_shapes(images: Tensor, yaw: Tensor, pitch: Tensor, intrinsics: Tensor) -> None:
    batch = images.shape[:1]
    if images.ndim != 4 or not (
        yaw.shape == pitch.shape == batch and intrinsics.shape == (*batch, 3, 3)
    ):
        raise ValueError(
            "expected images (B, 3, h, w), yaw and pitch (B,) and intrinsics (B, 3, 3), got "
            f"{tuple(images.shape)}, {tuple(yaw.shape)}, {tuple(pitch.shape)} and "
            f"{tuple(intrinsics.shape)}."
        )
