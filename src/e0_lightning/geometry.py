"""Camera matrices and rotations, in numpy.

Camera frame: x right, y down, z forward. Pixel centres are at half-integers, so an image of side S
covers ``[0, S]``. Rotations are right-handed. `envs` and `collection` rotate cameras and grippers
with `rotation_about`; the rotation of a batch on the GPU is in ``augment/spherical_warp.py``.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def camera_matrix(fov: float, side: int, height: int | None = None) -> NDArray[np.float32]:
    """Camera matrix of a square image with its principal point in the middle.

    Args:
        fov: Vertical field of view of the camera, degrees, above 0 and below 180.
        side: Image side S, pixels.
        height: Rows of the frame, pixels, where it was padded to a square; S if None.

    Returns:
        ``(3, 3)``, pixels.

    Raises:
        ValueError: If the field of view is not between 0 and 180 degrees.
    """
    if not 0 < fov < 180:
        raise ValueError(f"field of view: expected degrees between 0 and 180, got {fov}.")
    focal = (side if height is None else height) / 2 / np.tan(np.deg2rad(fov) / 2)
    return np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]], dtype=np.float32)


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
