"""Camera displacements: moving a camera on a sphere around its look-at point."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CameraOffset = tuple[float, float, float]
"""Azimuth and elevation in degrees, relative change of the distance."""

NO_OFFSET: CameraOffset = (0.0, 0.0, 0.0)
"""The offset of a camera at its original pose."""


class CameraError(ValueError):
    """A displacement that a camera cannot make in any episode."""


@dataclass
class CameraGrid:
    """Displacements of the fixed cameras to evaluate at.

    Args:
        azimuth: Degrees around the vertical axis, counter-clockwise from above.
        elevation: Degrees upwards.
        distance: Relative change of the distance to the look-at point; 0.1 is 10 % farther.
        sample: Sample one displacement per episode, uniformly between the minimum and the maximum
            of each list, instead of evaluating every combination of the values.

    Raises:
        ValueError: If a list is empty, an elevation is not between -90 and 90 degrees, or a
            distance is not above -1.
    """

    azimuth: tuple[float, ...] = (0.0,)
    elevation: tuple[float, ...] = (0.0,)
    distance: tuple[float, ...] = (0.0,)
    sample: bool = False

    def __post_init__(self) -> None:
        for name in ("azimuth", "elevation", "distance"):
            if not getattr(self, name):
                raise ValueError(f"camera_offset: expected values of {name}, got an empty list.")
        if max(map(abs, self.elevation)) >= 90 or min(self.distance) <= -1:
            raise ValueError(
                "camera_offset: expected elevations between -90 and 90 degrees and distances "
                f"above -1, got elevation {self.elevation} and distance {self.distance}."
            )

    def offsets(self, seed: int) -> list[CameraOffset]:
        """Displacements at which the episode of a seed is evaluated."""
        lists = self.azimuth, self.elevation, self.distance
        if not self.sample:
            return list(product(*lists))
        generator = np.random.default_rng(seed)
        azimuth, elevation, distance = (
            round(float(generator.uniform(min(values), max(values))), 2) for values in lists
        )
        return [(azimuth, elevation, distance)]


def orbit(pose: Floats, target: Floats, offset: CameraOffset) -> Floats:
    """Move a camera around a point that it keeps at the same place in its image.

    The whole pose is rotated about the target, first by the azimuth about z, then by the elevation
    about the horizontal axis perpendicular to the line of sight, and translated along that line.
    Roll is preserved; the result does not depend on the convention of the camera's own axes.

    Args:
        pose: Camera to world, ``(4, 4)``, metres, z up.
        target: Centre of the orbit, ``(3,)``, metres.
        offset: Azimuth and elevation in degrees, relative change of the distance.

    Returns:
        The new camera to world, ``(4, 4)``.

    Raises:
        CameraError: If the camera would pass over the top or stand exactly above its target.
    """
    from scipy.spatial.transform import Rotation

    azimuth, elevation, distance = np.deg2rad(offset[0]), np.deg2rad(offset[1]), offset[2]
    arm = pose[:3, 3] - target
    height = np.arctan2(arm[2], np.hypot(arm[0], arm[1]))
    if abs(height + elevation) >= np.pi / 2:
        raise CameraError(
            "camera_offset: expected a camera below 90 degrees above its target, got "
            f"{np.rad2deg(height):.0f} degrees plus an elevation of {offset[1]:g}. Choose a "
            "smaller elevation."
        )
    around = Rotation.from_rotvec([0.0, 0.0, azimuth])
    # About -(z × arm) a positive angle lifts the camera.
    axis = np.cross(around.apply(arm), [0.0, 0.0, 1.0])
    upwards = Rotation.from_rotvec(elevation * axis / np.linalg.norm(axis))
    rotation = (upwards * around).as_matrix()
    moved = np.eye(4)
    moved[:3, :3] = rotation @ pose[:3, :3]
    moved[:3, 3] = target + (1 + distance) * (rotation @ arm)
    return moved


def look_at_point(position: Floats, forward: Floats, height: float) -> Floats:
    """Intersection of the line of sight with the horizontal plane at ``height``, ``(3,)``.

    Args:
        position: Camera position, ``(3,)``, metres.
        forward: Viewing direction, ``(3,)``.
        height: z of the plane (the table), metres.

    Raises:
        CameraError: If the line of sight does not meet the plane.
    """
    if (height - position[2]) * forward[2] <= 0:
        raise CameraError(
            "camera_offset: expected a camera directed at the table, got one whose line of sight "
            "does not meet it, so there is no point to orbit. Leave the offset at 0."
        )
    point: Floats = position + forward * (height - position[2]) / forward[2]
    return point


def suffix(offset: CameraOffset) -> str:
    """Suffix of file names for a displacement, empty where there is none."""
    return "" if offset == NO_OFFSET else "".join(f"_{value:+g}" for value in offset)
