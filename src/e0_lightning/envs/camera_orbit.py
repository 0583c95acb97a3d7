"""Moving a camera on a sphere around the point it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


CameraOffset = tuple[float, float, float]
"""Azimuth and elevation in degrees, share of the distance added."""

NO_OFFSET: CameraOffset = (0.0, 0.0, 0.0)
"""The offset of a camera that stays where the task put it."""


class CameraError(ValueError):
    """A displacement that a camera cannot make, in any episode."""


@dataclass
class CameraGrid:
    """Displacements of the fixed cameras to evaluate at.

    Args:
        azimuth: Degrees around the vertical axis, counter-clockwise seen from above.
        elevation: Degrees upwards.
        distance: Share of the distance to the look-at point added to it; 0.1 is ten per cent more.
        between: Draw one displacement for each episode, uniformly between the smallest and the
            largest of each list, instead of playing every combination of the values listed.

    Raises:
        ValueError: If a list is empty, an angle turns the camera over, or a distance leaves none.
    """

    azimuth: tuple[float, ...] = (0.0,)
    elevation: tuple[float, ...] = (0.0,)
    distance: tuple[float, ...] = (0.0,)
    between: bool = False

    def __post_init__(self) -> None:
        if not (self.azimuth and self.elevation and self.distance):
            raise ValueError("camera_offset: found an empty list; give one value at least")
        if max(map(abs, self.elevation)) >= 90 or min(self.distance) <= -1:
            raise ValueError(
                f"camera_offset: found elevation {self.elevation} and distance {self.distance}; "
                "degrees between -90 and 90 and shares above -1 are wanted"
            )

    def offsets(self, seed: int) -> list[CameraOffset]:
        """The displacements to play the episode of a seed at."""
        lists = self.azimuth, self.elevation, self.distance
        if not self.between:
            return list(product(*lists))
        draw = np.random.default_rng(seed)
        azimuth, elevation, distance = (
            round(float(draw.uniform(min(values), max(values))), 2) for values in lists
        )
        return [(azimuth, elevation, distance)]


def orbit(pose: Floats, target: Floats, offset: CameraOffset) -> Floats:
    """Carry a camera around a point, so that it looks at it as before from elsewhere.

    The whole pose is turned about the target, by the azimuth about z and then by the elevation
    about the horizontal axis across the line of sight, and moved along that line. Roll stays, and
    the convention of the camera's own axes does not matter.

    Args:
        pose: Camera to world, ``(4, 4)``, metres, z up.
        target: Point to go around, ``(3,)``, metres.
        offset: Azimuth and elevation in degrees, distance as a share.

    Returns:
        The new camera to world, ``(4, 4)``.

    Raises:
        CameraError: If the camera would pass over the top or stand straight above its target.
    """
    azimuth, elevation, distance = np.deg2rad(offset[0]), np.deg2rad(offset[1]), offset[2]
    arm = pose[:3, 3] - target
    height = np.arctan2(arm[2], np.hypot(arm[0], arm[1]))
    if abs(height + elevation) >= np.pi / 2:
        raise CameraError(
            f"camera_offset: the camera stands {np.rad2deg(height):.0f} degrees above its target, "
            f"and elevation {offset[1]:g} would carry it over the top; choose less"
        )
    turned = rotation(np.array([0.0, 0.0, 1.0]), azimuth)
    # About -(z × arm) a positive angle lifts the camera.
    across = np.cross(turned @ arm, [0.0, 0.0, 1.0])
    turn = rotation(across / np.linalg.norm(across), elevation) @ turned
    moved = np.eye(4)
    moved[:3, :3] = turn @ pose[:3, :3]
    moved[:3, 3] = target + (1 + distance) * (turn @ arm)
    return moved


def look_at_point(position: Floats, forward: Floats, height: float) -> Floats:
    """Where the line of sight meets the horizontal plane at ``height``, ``(3,)``.

    Args:
        position: Camera, ``(3,)``, metres.
        forward: Direction it looks in, ``(3,)``.
        height: z of the plane, metres: the table.

    Raises:
        CameraError: If the camera does not look down on the plane.
    """
    if (height - position[2]) * forward[2] <= 0:
        raise CameraError(
            "camera_offset: the camera does not look down on the table, so it has no point there "
            "to go around; leave the offset at 0"
        )
    point: Floats = position + forward * (height - position[2]) / forward[2]
    return point


def rotation(axis: Floats, angle: float) -> Floats:
    """Rodrigues' rotation matrix ``(3, 3)`` about a unit ``axis`` by ``angle`` in radians."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turn: Floats = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


def suffix(offset: CameraOffset) -> str:
    """What a displacement adds to the name of a file, nothing where there is none."""
    return "" if offset == NO_OFFSET else "".join(f"_{value:+g}" for value in offset)
