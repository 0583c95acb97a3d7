"""Rotations in the representations of files and robots, converted through unit quaternions.

Quaternions are ``(…, 4)``, wxyz, of either sign. All operations are elementwise: a matrix
multiplication would be rounded to TF32 or bfloat16 where the user allows that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_AXES = "xyz"


class Representation(NamedTuple):
    """How a rotation is written as numbers."""

    size: int
    """Numbers n per rotation."""
    to_quaternion: Callable[[Tensor], Tensor]
    """From ``(…, n)`` to unit quaternions ``(…, 4)``."""
    from_quaternion: Callable[[Tensor], Tensor]
    """From unit quaternions ``(…, 4)`` to ``(…, n)``."""


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """Product of quaternions ``(…, 4)``: the rotation ``second``, followed by ``first``."""
    w1, x1, y1, z1 = first.unbind(-1)
    w2, x2, y2, z2 = second.unbind(-1)
    product = (
        w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
        w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
        w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
        w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
    )
    return torch.stack(product, dim=-1)


def invert(quaternion: Tensor) -> Tensor:
    """Inverse of unit quaternions ``(…, 4)``."""
    return quaternion * quaternion.new_tensor([1, -1, -1, -1])


def axis_angle_to_quaternion(vector: Tensor) -> Tensor:
    """Unit quaternions ``(…, 4)`` of rotation vectors ``(…, 3)``, axis times angle in radians."""
    angle = vector.norm(dim=-1, keepdim=True)
    # sin(θ/2) / θ, by sinc(x) = sin(πx) / (πx), which is 1 at 0.
    scale = torch.sinc(angle / (2 * torch.pi)) / 2
    return torch.cat([(angle / 2).cos(), vector * scale], dim=-1)


def quaternion_to_axis_angle(quaternion: Tensor) -> Tensor:
    """Rotation vectors ``(…, 3)`` of unit quaternions, with angles from 0 to π."""
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * torch.where(sine > 0, angle / sine, 2.0)


def euler_to_quaternion(angles: Tensor, order: str) -> Tensor:
    """Unit quaternions ``(…, 4)`` of three successive rotations about axes.

    Args:
        angles: ``(…, 3)``, radians, in the order of rotation.
        order: Three of ``xyz`` about the fixed axes, or of ``XYZ`` about the moving ones.
    """
    half = angles / 2
    factors = [
        _about(_AXES.index(axis), angle)
        for axis, angle in zip(order.lower(), half.unbind(-1), strict=True)
    ]
    return reduce(multiply, factors if order.isupper() else factors[::-1])


def quaternion_to_euler(quaternion: Tensor, order: str) -> Tensor:
    """Angles ``(…, 3)`` of three successive rotations, radians, from -π to π.

    The method of Bernardes and Viollet (PLoS ONE 17(11), 2022), which has no singular case: where
    only the sum or difference of the outer angles is defined, they still compose to the rotation.
    The middle angle is from -π/2 to π/2, or from 0 to π if the outer axes are the same.

    Args:
        quaternion: ``(…, 4)``.
        order: As for `euler_to_quaternion`.
    """
    # Moving axes in one order are fixed axes in the opposite one.
    axes = order.lower()[::-1] if order.isupper() else order
    i, j, k = (_AXES.index(axis) for axis in axes)
    is_proper = i == k
    k = 3 - i - j
    sign = 1 if (j - i) % 3 == 1 else -1
    w, vector = quaternion[..., 0], quaternion[..., 1:]
    a, b, c, d = w, vector[..., i], vector[..., j], sign * vector[..., k]
    if not is_proper:
        a, b, c, d = a - c, b + d, c + a, d - b
    middle = 2 * torch.atan2(torch.hypot(c, d), torch.hypot(a, b))
    half_sum, half_difference = torch.atan2(b, a), torch.atan2(d, c)
    first, last = half_sum - half_difference, half_sum + half_difference
    if not is_proper:
        middle, last = middle - torch.pi / 2, sign * last
    angles = (last, middle, first) if order.isupper() else (first, middle, last)
    return wrap(torch.stack(angles, dim=-1))


def rotation_6d_to_quaternion(values: Tensor, columns: bool) -> Tensor:
    """Unit quaternions of the first two rows or columns of matrices (Zhou et al., CVPR 2019).

    Args:
        values: ``(…, 6)``, one row or column after the other; made orthonormal.
        columns: Whether they are columns.
    """
    first = functional.normalize(values[..., :3], dim=-1)
    second = values[..., 3:]
    second = second - (first * second).sum(dim=-1, keepdim=True) * first
    second = functional.normalize(second, dim=-1)
    rows = torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)
    return _matrix_to_quaternion(rows.mT if columns else rows)


def quaternion_to_rotation_6d(quaternion: Tensor, columns: bool) -> Tensor:
    """First two rows or columns of the matrices of unit quaternions, ``(…, 6)``."""
    w, x, y, z = (quaternion if columns else invert(quaternion)).unbind(-1)
    first = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    second = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    return torch.stack([*first, *second], dim=-1)


def wrap(angles: Tensor) -> Tensor:
    """Wrap angles in radians to (-π, π]; those in this range are returned unchanged."""
    return angles - 2 * torch.pi * torch.ceil(angles / (2 * torch.pi) - 0.5)


REPRESENTATIONS = {
    "axis_angle": Representation(3, axis_angle_to_quaternion, quaternion_to_axis_angle),
    "quaternion_wxyz": Representation(4, partial(functional.normalize, dim=-1), torch.Tensor.clone),
    "quaternion_xyzw": Representation(
        4,
        lambda values: functional.normalize(values.roll(1, dims=-1), dim=-1),
        lambda quaternion: quaternion.roll(-1, dims=-1),
    ),
    **{
        f"rotation_6d_{name}": Representation(
            6,
            partial(rotation_6d_to_quaternion, columns=name == "columns"),
            partial(quaternion_to_rotation_6d, columns=name == "columns"),
        )
        for name in ("rows", "columns")
    },
    **{
        f"euler_{order}": Representation(
            3, partial(euler_to_quaternion, order=order), partial(quaternion_to_euler, order=order)
        )
        for axes in ("xyz", "XYZ")
        for order in map("".join, itertools.product(axes, repeat=3))
        if order[0] != order[1] != order[2]
    },
}
"""Representation by name. Euler angles are named by their axes in the order of rotation: small
letters are fixed axes, capital letters moving ones, as in scipy."""


def find_representation(name: str, option: str) -> Representation:
    """Representation of a name.

    Args:
        name: One of `REPRESENTATIONS`.
        option: Name of the option that holds it, for the error message.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in REPRESENTATIONS:
        others = ", ".join(each for each in REPRESENTATIONS if not each.startswith("euler_"))
        raise ValueError(
            f"{option}: expected {others}, or euler_ with three axes in the order of rotation, "
            f"fixed (euler_xyz) or moving (euler_XYZ), got {name!r}."
        )
    return REPRESENTATIONS[name]


def _about(axis: int, half: Tensor) -> Tensor:
    """Unit quaternions of rotations about an axis by twice the angles ``half``."""
    parts = [half.cos(), *(torch.zeros_like(half) for _ in _AXES)]
    parts[1 + axis] = half.sin()
    return torch.stack(parts, dim=-1)


def _matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions of matrices ``(…, 3, 3)``, by the largest of the four components."""
    xx, yy, zz = matrix.diagonal(dim1=-2, dim2=-1).unbind(-1)
    zy, xz, yx = (
        matrix[..., row, column] - matrix[..., column, row]
        for row, column in ((2, 1), (0, 2), (1, 0))
    )
    yz, zx, xy = (
        matrix[..., row, column] + matrix[..., column, row]
        for row, column in ((2, 1), (0, 2), (1, 0))
    )
    # Row n is 4 q_n (w, x, y, z).
    candidates = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, zy, xz, yx], dim=-1),
            torch.stack([zy, 1 + xx - yy - zz, xy, zx], dim=-1),
            torch.stack([xz, xy, 1 - xx + yy - zz, yz], dim=-1),
            torch.stack([yx, zx, yz, 1 - xx - yy + zz], dim=-1),
        ],
        dim=-2,
    )
    largest = candidates.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    chosen = candidates.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4))
    return functional.normalize(chosen.squeeze(-2), dim=-1)
