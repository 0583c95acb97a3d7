import math

import pytest
import torch

from e0_lightning.augment.spherical_warp import homography, rotation, transform

ANGLES = torch.tensor([-0.26, -0.1, 0.0, 0.17, 0.26], dtype=torch.float64)
CAMERA = torch.tensor([[70.0, 0.5, 63.0], [0.0, 66.0, 65.5], [0.0, 0.0, 1.0]], dtype=torch.float64)


def test_rotation_applies_yaw_before_pitch():
    yaw, pitch = ANGLES, ANGLES.flip(0)
    zero = torch.zeros_like(yaw)
    torch.testing.assert_close(rotation(yaw, pitch), rotation(zero, pitch) @ rotation(yaw, zero))


@pytest.mark.parametrize(
    ("yaw", "pitch", "moved"),
    [(math.pi / 6, 0.0, [0.5, 0.0, 0.75**0.5]), (0.0, math.pi / 6, [0.0, -0.5, 0.75**0.5])],
)
def test_positive_yaw_moves_the_scene_right_and_positive_pitch_up(yaw, pitch, moved):
    forward = rotation(torch.tensor([yaw]), torch.tensor([pitch]))[0] @ torch.tensor(
        [0.0, 0.0, 1.0]
    )
    torch.testing.assert_close(forward, torch.tensor(moved))


def test_homographies_of_opposite_angles_cancel():
    zero, camera = torch.zeros_like(ANGLES), CAMERA.expand(len(ANGLES), 3, 3)
    identity = torch.eye(3, dtype=torch.float64).expand(len(ANGLES), 3, 3)
    for forward, inverse in (
        (rotation(ANGLES, zero), rotation(-ANGLES, zero)),
        (rotation(zero, ANGLES), rotation(zero, -ANGLES)),
        (rotation(ANGLES, ANGLES), rotation(ANGLES, ANGLES).mT),
    ):
        round_trip = homography(forward, camera) @ homography(inverse, camera)
        torch.testing.assert_close(round_trip, identity, atol=1e-11, rtol=0)


def test_homography_maps_pixels_of_points_at_any_depth():
    rays = torch.tensor([[0.3, -0.2, 1.0], [-0.4, 0.1, 1.0]], dtype=torch.float64)
    rotated = rotation(ANGLES[:2], ANGLES[3:])
    before = rays @ CAMERA.T
    for depth in (0.2, 5.0):
        after = (CAMERA @ rotated @ (depth * rays).unsqueeze(-1)).squeeze(-1)
        mapped, _ = transform(
            homography(rotated, CAMERA.expand(2, 3, 3)), before[:, 0], before[:, 1]
        )
        torch.testing.assert_close(mapped, after[:, :2] / after[:, 2:])


def test_a_point_behind_the_camera_has_no_positive_depth():
    rotated = rotation(torch.tensor([math.radians(120.0)]), torch.zeros(1))
    _, depth = transform(
        homography(rotated, CAMERA[None]), torch.tensor([63.0]), torch.tensor([65.5])
    )
    assert depth.item() == pytest.approx(-0.5, abs=1e-6)


def test_homography_is_exact_under_reduced_matrix_precision():
    yaw, zero = torch.tensor([0.2]), torch.zeros(1)
    exact = homography(rotation(yaw, zero), CAMERA[None].float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = homography(rotation(yaw, zero), CAMERA[None].float())
    assert torch.equal(exact, reduced)
