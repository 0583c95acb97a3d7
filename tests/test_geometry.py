import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from e0_lightning.geometry import (
    camera_matrix,
    quaternion_to_axis_angle,
    quaternion_to_euler,
    quaternion_to_matrix,
    resize_frames,
    resize_intrinsics,
    rotation_about,
)
from e0_lightning.types import ViewSize


def test_a_field_of_view_of_90_degrees_has_a_focal_length_of_half_the_side():
    np.testing.assert_allclose(camera_matrix(90, 128, 128), [[64, 0, 64], [0, 64, 64], [0, 0, 1]])


def test_wide_images_have_square_pixels():
    np.testing.assert_allclose(camera_matrix(90, 64, 96), [[32, 0, 48], [0, 32, 32], [0, 0, 1]])


def disk(camera, point, radius=4):
    """Frame ``(1, h, w, 3)`` with a white disk around pixel ``point`` (x, y)."""
    y, x = np.mgrid[: camera[0], : camera[1]] + 0.5
    inside = (x - point[0]) ** 2 + (y - point[1]) ** 2 < radius**2
    return np.repeat(inside[None, ..., None] * np.uint8(255), 3, axis=-1)


SIZES = {
    "smaller": ViewSize(48, 64),
    "padded": ViewSize(64, 64),
    "padded columns": ViewSize(48, 100),
    "stretched": ViewSize(64, 64, fit="stretch"),
    "cropped by fractions": ViewSize(48, 48, crop=[0.1, 0.25, 0.8, 0.5]),
    "cropped by pixels": ViewSize(60, 30, crop=[20, 40, 64, 80], fit="stretch"),
    "larger": ViewSize(192, 256),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_camera_matrices_follow_what_resizing_does_to_the_frame(size):
    camera, direction = (96, 128), np.array([0.05, 0.1, 1])
    matrix = camera_matrix(60, *camera)
    frames = disk(camera, (matrix @ direction)[:2])
    image = resize_frames(frames, size)[0, ..., 0].astype(float)
    y, x = np.mgrid[: size.height, : size.width] + 0.5
    found = [(x * image).sum() / image.sum(), (y * image).sum() / image.sum()]
    expected = (resize_intrinsics(matrix, camera, size) @ direction)[:2]
    np.testing.assert_allclose(found, expected, atol=0.3)


def test_padding_keeps_the_aspect_ratio_and_is_black():
    image = resize_frames(np.full((1, 48, 64, 3), 200, np.uint8), ViewSize(32, 32))[0]
    assert (image[4:28] == 200).all()
    assert image[:4].sum() == image[28:].sum() == 0


def test_frames_of_the_right_size_are_not_copied():
    frames = np.zeros((2, 8, 6, 3), np.uint8)
    assert np.shares_memory(resize_frames(frames, ViewSize(8, 6)), frames)


def test_resizing_agrees_with_pillows_bilinear_filter():
    frame = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    expected = Image.fromarray(frame).resize((20, 15), Image.Resampling.BILINEAR)
    found = resize_frames(frame[None], ViewSize(15, 20))[0]
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0}, "at least 1 pixel, got 0 x 8"),
        ({"crop": [0, 0, 0.5]}, r"crop: expected \[top, left, height, width\]"),
        ({"crop": [0, 0, 0, 1]}, "crop: expected"),
        ({"fit": "crop"}, "fit: expected pad or stretch, got 'crop'"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ViewSize(**{"height": 8, "width": 8, **arguments})


@pytest.mark.parametrize("fov", [0.0, -60.0, 180.0])
def test_impossible_fields_of_view_are_refused(fov):
    with pytest.raises(ValueError, match="between 0 and 180"):
        camera_matrix(fov, 128, 128)


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
