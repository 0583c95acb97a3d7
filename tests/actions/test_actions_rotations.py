"""Conversions of rotations, against scipy."""

import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from e0_lightning.actions.rotations import (
    REPRESENTATIONS,
    find_representation,
    invert,
    multiply,
    wrap,
)

REFERENCE = {
    "axis_angle": Rotation.as_rotvec,
    "quaternion_wxyz": lambda rotation: np.roll(rotation.as_quat(), 1, axis=-1),
    "quaternion_xyzw": Rotation.as_quat,
    "rotation_6d_rows": lambda rotation: rotation.as_matrix()[:, :2].reshape(-1, 6),
    "rotation_6d_columns": lambda rotation: rotation.inv().as_matrix()[:, :2].reshape(-1, 6),
}


def reference(name, rotation):
    """Numbers of a scipy rotation."""
    if name in REFERENCE:
        return REFERENCE[name](rotation)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gimbal lock")
        return rotation.as_euler(name.removeprefix("euler_"))


def as_scipy(quaternion):
    return Rotation.from_quat(np.roll(quaternion.double().numpy(), -1, axis=-1))


def hard_rotations():
    """Random ones, those of no, almost and exactly half a turn, and gimbal lock of any order."""
    random = Rotation.random(200, random_state=0)
    axes = np.vstack([np.eye(3), -np.eye(3), Rotation.random(10, random_state=1).apply([1, 0, 0])])
    angles = [0, 1e-7, 1e-3, np.pi / 2, np.pi - 1e-4, np.pi - 1e-7, np.pi]
    turns = Rotation.from_rotvec(np.vstack([angle * axes for angle in angles]))
    near_lock = [
        Rotation.from_euler(order, [[0.3, middle + offset, -2.9]])
        for order in ("xyz", "zyx", "yzx", "XYZ", "ZYZ")
        for middle in (-np.pi / 2, 0, np.pi / 2, np.pi)
        for offset in (0, 1e-7, 1e-4)
    ]
    return Rotation.concatenate([random, turns, *near_lock])


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_representation_is_read_as_scipy_writes_it(name):
    rotations = hard_rotations()
    values = torch.from_numpy(reference(name, rotations)).float()
    error = as_scipy(REPRESENTATIONS[name].to_quaternion(values)) * rotations.inv()
    assert error.magnitude().max() < 1e-5


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_representation_is_written_as_scipy_writes_it(name):
    rotations = Rotation.random(200, random_state=2)
    quaternion = torch.from_numpy(np.roll(rotations.as_quat(), 1, axis=-1))
    written = REPRESENTATIONS[name].from_quaternion(quaternion)
    np.testing.assert_allclose(written, reference(name, rotations), atol=1e-8)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_what_is_written_is_the_same_rotation(name, sign):
    rotations = hard_rotations()
    quaternion = torch.from_numpy(sign * np.roll(rotations.as_quat(), 1, axis=-1)).float()
    written = REPRESENTATIONS[name].from_quaternion(quaternion)
    assert written.shape[-1] == REPRESENTATIONS[name].size
    error = as_scipy(REPRESENTATIONS[name].to_quaternion(written)) * rotations.inv()
    assert error.magnitude().max() < 1e-5


def test_products_and_inverses_are_those_of_scipy():
    first, second = Rotation.random(50, random_state=3), Rotation.random(50, random_state=4)
    pair = [torch.from_numpy(np.roll(each.as_quat(), 1, axis=-1)) for each in (first, second)]
    error = as_scipy(multiply(pair[0], invert(pair[1]))) * (first * second.inv()).inv()
    assert error.magnitude().max() < 1e-12


def test_numbers_of_6d_need_not_be_orthonormal():
    values = torch.tensor([[2.0, 0, 0, 5, 3, 0]])
    for name in ("rotation_6d_rows", "rotation_6d_columns"):
        quaternion = REPRESENTATIONS[name].to_quaternion(values)
        torch.testing.assert_close(quaternion, torch.tensor([[1.0, 0, 0, 0]]))


def test_wrap_maps_half_turns_to_pi_and_keeps_angles_in_range():
    inside = torch.tensor([-3.1415, -1.0, 0.0, 1e-9, 3.1415])
    assert wrap(inside).equal(inside)
    turns = torch.tensor([torch.pi, -torch.pi, 3 * torch.pi], dtype=torch.float64)
    torch.testing.assert_close(wrap(turns), torch.full((3,), torch.pi, dtype=torch.float64))


@pytest.mark.parametrize("name", ["quaternion", "rotation_6d", "euler_xyy", "euler_xyZ", "euler"])
def test_unknown_and_ambiguous_names_are_refused(name):
    with pytest.raises(ValueError, match=rf"relative: expected axis_angle, .* got '{name}'"):
        find_representation(name, "relative")
