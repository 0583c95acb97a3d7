"""Images as a camera would see them that is turned about its optical centre."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from e0_lightning.augment.homography import homography, rotation, transform


class SphericalWarp:
    """Spherical viewpoint perturbation (E0, eq. 7 and 15-17): the scene turns, depth cancels.

    The directions and the pixel convention are those of ``homography.py``.

    Args:
        max_yaw: Largest turn left or right that `sample` draws, degrees, in [0, 90).
        max_pitch: Largest turn up or down that `sample` draws, degrees, in [0, 90).

    Raises:
        ValueError: If a limit is outside [0, 90).
    """

    def __init__(self, max_yaw: float = 15.0, max_pitch: float = 15.0) -> None:
        for name, limit in (("max_yaw", max_yaw), ("max_pitch", max_pitch)):
            if not 0 <= limit < 90:
                raise ValueError(f"{name} is {limit}; it is in degrees, from 0 to below 90.")
        self.max_yaw = max_yaw
        self.max_pitch = max_pitch

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw turns uniformly within the limits.

        Args:
            batch: Number of samples B.
            generator: Source of randomness; the result lies on its device.

        Returns:
            ``(yaw, pitch)``, ``(B,)`` each, radians.
        """
        unit = torch.rand(2, batch, generator=generator, device=generator.device) * 2 - 1
        limits = unit.new_tensor([[self.max_yaw], [self.max_pitch]]).deg2rad()
        yaw, pitch = unit * limits
        return yaw, pitch

    def warp(
        self, images: Tensor, yaw: Tensor, pitch: Tensor, intrinsics: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rotate the scene by ``R_x(pitch) R_y(yaw)`` and look again, with bilinear sampling.

        An image with both angles zero comes back bit by bit; uint8 comes back as uint8, rounded.

        Args:
            images: ``(B, 3, S, S)``, uint8 or floating point.
            yaw: ``(B,)``, radians; positive moves the scene right.
            pitch: ``(B,)``, radians; positive moves the scene up.
            intrinsics: Camera matrices ``(B, 3, 3)`` for images of this size, pixels.

        Returns:
            ``(warped, valid)``: images like those given, black where the source shows nothing, and
            ``(B, 1, S, S)`` bool, true where the pixel's centre comes from inside the source.

        Raises:
            ValueError: If a shape does not fit.
        """
        _require_shapes(images, yaw, pitch, intrinsics)
        height, width = images.shape[-2:]
        turn = rotation(yaw, pitch)
        back = homography(turn.mT, _from_edge_to_edge(intrinsics.to(turn.dtype), width, height))
        u, v = (_centres(side, back) for side in (width, height))
        grid, depth = transform(back, u.view(1, 1, -1), v.view(1, -1, 1))
        inside = (depth > 0) & (grid[..., 0].abs() <= 1) & (grid[..., 1].abs() <= 1)
        valid = inside.unsqueeze(1)

        source = images.to(torch.promote_types(images.dtype, torch.float32))
        # The outermost half pixel of the source repeats its border.
        warped = functional.grid_sample(
            source, grid.to(source.dtype), padding_mode="border", align_corners=False
        )
        if not images.is_floating_point():
            warped = warped.round_()
        warped = warped.to(images.dtype).masked_fill(~valid, 0)
        still = ((yaw == 0) & (pitch == 0)).view(-1, 1, 1, 1)
        return torch.where(still, images, warped), valid


def _from_edge_to_edge(intrinsics: Tensor, width: int, height: int) -> Tensor:
    """Camera matrix in the coordinates of ``grid_sample``: -1 and 1 are the image's outer edges."""
    to_unit = intrinsics.new_tensor([[2 / width], [2 / height], [1]])
    origin = intrinsics.new_tensor([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    return intrinsics * to_unit - origin


def _centres(side: int, like: Tensor) -> Tensor:
    """Where the centres of a row of pixels are, from -1 to 1, ``(side,)``."""
    return (2 * torch.arange(side, dtype=like.dtype, device=like.device) + 1) / side - 1


def _require_shapes(images: Tensor, yaw: Tensor, pitch: Tensor, intrinsics: Tensor) -> None:
    wanted = "(B, 3, S, S), angles (B,) and intrinsics (B, 3, 3)"
    batch = images.shape[:1]
    if images.ndim != 4 or not (
        yaw.shape == pitch.shape == batch and intrinsics.shape == (*batch, 3, 3)
    ):
        raise ValueError(
            f"Images are {tuple(images.shape)}, yaw {tuple(yaw.shape)}, pitch {tuple(pitch.shape)} "
            f"and intrinsics {tuple(intrinsics.shape)}; a warp takes images {wanted}."
        )
