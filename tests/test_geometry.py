import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from e0_lightning.geometry import (
    camera_matrix,
    quaternion_to_axis_angle,
    quaternion_to_euler,
    quaternion_to_matrix,
    rotation_about,
)


def test_a_field_of_view_of_90_degrees_has_a_focal_length_of_half_the_side():
    np.testing.assert_allclose(camera_matrix(90, 128), [[64, 0, 64], [0, 64, 64], [0, 0, 1]])


def test_padding_to_a_square_keeps_the_focal_length_of_the_frame():
    padded, frame = camera_matrix(60, 64, height=48), camera_matrix(60, 48)
    assert padded[0, 0] == padded[1, 1] == frame[0, 0]
    assert padded[:2, 2].tolist() == [32, 32]


@pytest.mark.parametrize("fov", [0.0, -60.0, 180.0])
def test_impossible_fields_of_view_are_refused(fov):
    with pytest.raises(ValueError, match="between 0 and 180"):
        camera_matrix(fov, 128)


def test_rotations_are_right_handed():
    np.testing.assert_allclose(
        rotation_about([0, 0, 1], np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-9
    )
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        quaternion_to_matrix([half, 0, 0, half]) @ [1, 0, 0], [0, 1, 0], atol=1e-9
    )
    with pytest.raises(ValueError, match="other than zero"):
        quaternion_to_matrix([0, 0, 0, 0])


def test_axis_angle_keeps_the_sign_of_the_quaternion():
    quaternion = np.array([np.sin(0.5), 0, 0, np.cos(0.5)])
    np.testing.assert_allclose(quaternion_to_axis_angle(quaternion), [1, 0, 0])
    np.testing.assert_allclose(quaternion_to_axis_angle(-quaternion), [-(2 * np.pi - 1), 0, 0])
    assert quaternion_to_axis_angle(np.array([0, 0, 0, 1.0])).tolist() == [0, 0, 0]


def test_axis_angle_equals_robosuites_formula():
    for quaternion in Rotation.random(100, random_state=0).as_quat(canonical=False):
        for signed in (quaternion, -quaternion):
            axis = signed[:3] / np.linalg.norm(signed[:3])
            expected = axis * 2 * np.arccos(signed[3])
            np.testing.assert_allclose(quaternion_to_axis_angle(signed), expected, atol=1e-9)


def test_euler_angles_are_about_fixed_axes_and_zero_about_z_at_the_singularity():
    angles = np.array([[0.3, -0.2, 3.0], [np.pi, 0, np.pi / 2], [-0.5, np.pi / 2, 0.2]])
    rotations = Rotation.from_euler("xyz", angles)
    found = quaternion_to_euler(rotations.as_quat()[:, [3, 0, 1, 2]])
    np.testing.assert_allclose(found[:2], angles[:2], atol=1e-6)
    assert found[2, 2] == 0
    difference = rotations.inv() * Rotation.from_euler("xyz", found)
    np.testing.assert_allclose(difference.magnitude(), 0, atol=1e-6)
