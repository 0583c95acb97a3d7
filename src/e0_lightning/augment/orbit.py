"""Images of a pinhole camera that moves around the point at its image's centre, with parallax.

Conventions are those of ``spherical_warp``. There the camera turns in place and depth cancels; here
every pixel moves by its own depth, and what the camera did not see stays black.
"""

from __future__ import annotations

import torch
from torch import Tensor

from e0_lightning.augment.spherical_warp import homography, resample, rotation
from e0_lightning.random import sample_uniform

SPLATS = 2
"""Points per pixel and axis that are projected, so that a magnified surface has no cracks."""

TOLERANCE = 1.0
"""Largest error of a pixel that is projected to the source and back, pixels."""


class OrbitWarp:
    """Orbit of a camera around its look-at point: rotation of the scene about it, and distance.

    The look-at point is where the optical axis meets the scene, in the depth ``z`` of the pixel at
    the principal point. The scene rotates about it by ``R_x(pitch) R_y(yaw)``, and the camera's
    distance from it becomes ``(1 + radial) z``: the point stays where it is in the image.

    Args:
        max_yaw: Largest angle left or right that `sample` returns, degrees, in [0, 90).
        max_pitch: Largest angle up or down that `sample` returns, degrees, in [0, 90).
        max_radial: Largest relative change of the distance that `sample` returns, in [0, 1).

    Raises:
        ValueError: If a limit is out of range.
    """

    def __init__(
        self, max_yaw: float = 15.0, max_pitch: float = 15.0, max_radial: float = 0.1
    ) -> None:
        for name, limit, end in (
            ("max_yaw", max_yaw, 90),
            ("max_pitch", max_pitch, 90),
            ("max_radial", max_radial, 1),
        ):
            if not 0 <= limit < end:
                raise ValueError(f"{name}: expected a number from 0 to below {end}, got {limit}.")
        self.max_yaw, self.max_pitch, self.max_radial = max_yaw, max_pitch, max_radial

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Sample displacements uniformly within the limits.

        Args:
            batch: Number of samples B.
            generator: Source of randomness; the result is on its device.

        Returns:
            ``(B, 3)``: relative change of the distance, yaw and pitch in radians.
        """
        unit = sample_uniform((batch, 3), generator) * 2 - 1
        angles = unit.new_tensor([self.max_yaw, self.max_pitch]).deg2rad()
        return unit * torch.cat((unit.new_tensor([self.max_radial]), angles))

    def warp(
        self, images: Tensor, depth: Tensor, offset: Tensor, intrinsics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images from the displaced cameras, with bilinear sampling.

        The nearest of all points that reach a pixel gives its depth (z-buffer), which leads back to
        the source. An image with the offset zero is returned unchanged, to the bit; uint8 images
        are returned as uint8, rounded.

        Args:
            images: ``(B, 3, h, w)``, uint8 or floating point.
            depth: ``(B, h, w)`` along the optical axis, metres; not positive where unknown.
            offset: ``(B, 3)``: relative change of the distance, yaw and pitch in radians; positive
                angles move what is nearer than the look-at point left and down, and what is farther
                right and up.
            intrinsics: Camera matrices ``(B, 3, 3)`` for images of this size, pixels.

        Returns:
            ``(warped, valid)``: images of the same shape and type, black where the source does not
            show the scene, and ``(B, 1, h, w)`` bool, true elsewhere.

        Raises:
            ValueError: If shapes do not fit, or the depth of a look-at point is unknown.
        """
        _check_shapes(images, depth, offset, intrinsics)
        height, width = images.shape[-2:]
        depth, offset, intrinsics = depth.float(), offset.float(), intrinsics.float()
        turn, shift = _motion(depth, offset, intrinsics)
        ahead = _projection(turn, shift, intrinsics)
        back = _projection(turn.mT, -_apply(turn.mT, shift), intrinsics)

        fine = depth.repeat_interleave(SPLATS, 1).repeat_interleave(SPLATS, 2)
        u, v = _centres(width, SPLATS, depth), _centres(height, SPLATS, depth)
        nearest = _z_buffer(*_project(ahead, u, v[:, None], fine), height, width)

        u, v = _centres(width, 1, depth), _centres(height, 1, depth)[:, None]
        found = nearest.isfinite()
        source_u, source_v, _ = _project(back, u, v, nearest.where(found, 1.0))
        column, row = source_u.floor(), source_v.floor()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
        seen = depth.flatten(1).gather(1, index.flatten(1)).view_as(depth)
        again_u, again_v, again = _project(ahead, source_u, source_v, seen)
        error = torch.maximum((again_u - u).abs(), (again_v - v).abs())
        valid = (found & inside & (seen > 0) & (again > 0) & (error <= TOLERANCE)).unsqueeze(1)

        grid = torch.stack((2 * source_u / width - 1, 2 * source_v / height - 1), dim=-1)
        unchanged = (offset == 0).all(dim=-1).view(-1, 1, 1, 1)
        warped = torch.where(unchanged, images, resample(images, grid, valid))
        return warped, valid | unchanged


def _motion(depth: Tensor, offset: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation ``(B, 3, 3)`` and translation ``(B, 3)`` of the scene in the camera's frame."""
    height, width = depth.shape[-2:]
    column = intrinsics[:, 0, 2].long().clamp(0, width - 1)
    row = intrinsics[:, 1, 2].long().clamp(0, height - 1)
    distance = depth[torch.arange(len(depth), device=depth.device), row, column]
    moved = (offset != 0).any(dim=-1)
    if bool((moved & ~(distance > 0)).any()):
        raise ValueError(
            "depth: expected a positive depth at the principal point, around which a camera "
            f"moves, got {distance[moved].min():g}. Leave out views that see nothing there."
        )
    turn = rotation(offset[:, 1], offset[:, 2])
    target = torch.stack((distance * 0, distance * 0, distance), dim=-1)
    return turn, (1 + offset[:, :1]) * target - _apply(turn, target)


def _projection(turn: Tensor, shift: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """``(C R C⁻¹, C t)``: pixel p = ``(u, v, 1)`` in depth z moves to ``z C R C⁻¹ p + C t``."""
    return homography(turn, intrinsics), _apply(intrinsics, shift)


def _project(
    projection: tuple[Tensor, Tensor], u: Tensor, v: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """New columns, rows and depths ``(B, h, w)`` of pixels ``(u, v)`` in a depth."""
    matrix, shift = (each[..., None, None].unbind(1) for each in projection)
    x, y, z = (
        depth * (row[:, 0] * u + row[:, 1] * v + row[:, 2]) + offset
        for row, offset in zip(matrix, shift, strict=True)
    )
    far = z.clamp(min=torch.finfo(z.dtype).eps)
    return x / far, y / far, z.where(depth > 0, -1.0)


def _z_buffer(u: Tensor, v: Tensor, depth: Tensor, height: int, width: int) -> Tensor:
    """Smallest depth of the points in each pixel, ``(B, h, w)``; infinite where there is none."""
    column, row = u.floor(), v.floor()
    inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    # Points outside go to a pixel of their own, which is cut off.
    index = torch.where(inside, row * width + column, float(height * width)).long()
    buffer = depth.new_full((len(depth), height * width + 1), torch.inf)
    buffer.scatter_reduce_(1, index.flatten(1), depth.flatten(1), "amin")
    return buffer[:, :-1].view(-1, height, width)


def _centres(side: int, per_pixel: int, like: Tensor) -> Tensor:
    """Centres of equal parts of a row of pixels, ``(side · per_pixel,)``, pixels."""
    count = torch.arange(side * per_pixel, dtype=like.dtype, device=like.device)
    return (count + 0.5) / per_pixel


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(B, 3, 3)`` times ``(B, 3)``, in full precision."""
    return (matrix * vector.unsqueeze(-2)).sum(dim=-1)


def _check_shapes(images: Tensor, depth: Tensor, offset: Tensor, intrinsics: Tensor) -> None:
    batch, size = images.shape[:1], images.shape[-2:]
    if images.ndim != 4 or not (
        depth.shape == (*batch, *size)
        and offset.shape == (*batch, 3)
        and intrinsics.shape == (*batch, 3, 3)
    ):
        raise ValueError(
            "expected images (B, 3, h, w), depth (B, h, w), offset (B, 3) and intrinsics "
            f"(B, 3, 3), got {tuple(images.shape)}, {tuple(depth.shape)}, {tuple(offset.shape)} "
            f"and {tuple(intrinsics.shape)}."
        )
