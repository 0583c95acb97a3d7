"""The orbit of a camera compared with scenes whose images are known from every pose."""

import math

import pytest
import torch

from e0_lightning.augment.orbit import OrbitWarp
from e0_lightning.augment.spherical_warp import rotation
from e0_lightning.geometry import camera_matrix

SIDE = 64
CAMERA = torch.from_numpy(camera_matrix(60.0, SIDE, SIDE)).expand(1, 3, 3)
OFFSETS = [(0.0, 12, 0), (0.0, -12, 0), (0.0, 0, 12), (0.0, 0, -12), (0.2, 0, 0), (-0.2, 0, 0)]
OFFSETS += [(0.1, 10, -8), (-0.1, -8, 10)]


def offset_of(radial, yaw, pitch):
    return torch.tensor([[radial, math.radians(yaw), math.radians(pitch)]])


def rays():
    """Direction of every pixel, ``(3, h, w)``, z = 1."""
    centre = torch.arange(SIDE) + 0.5
    v, u = torch.meshgrid(centre, centre, indexing="ij")
    pixels = torch.stack((u, v, torch.ones_like(u))).double()
    return torch.einsum("ij,jhw->ihw", torch.linalg.inv(CAMERA[0].double()), pixels)


def texture(x, y):
    """A smooth pattern in three channels."""
    return torch.stack((torch.sin(9 * x), torch.cos(7 * y), torch.sin(5 * x + 6 * y))) / 2 + 0.5


def view_of_plane(offset, slope=0.6, distance=1.0):
    """Image and depth of the plane ``z = distance + slope · y`` from the displaced camera.

    The scene moves by ``X' = R (X - P) + (1 + d) P``, P the look-at point.
    """
    radial, yaw, pitch = offset[0].double()
    turn = rotation(yaw[None], pitch[None])[0]
    target = torch.tensor([0.0, 0.0, distance], dtype=torch.float64)
    # A ray of the displaced camera in the frame of the first: origin and direction.
    origin = target - turn.T @ ((1 + radial) * target)
    direction = torch.einsum("ij,jhw->ihw", turn.T, rays())
    normal = torch.tensor([0.0, -slope, 1.0], dtype=torch.float64)
    depth = (distance - normal @ origin) / torch.einsum("i,ihw->hw", normal, direction)
    point = origin[:, None, None] + depth * direction
    image = texture(point[0], point[1]).clamp(0, 1)
    return image[None].float(), depth[None].float()


def psnr(images, expected, valid):
    error = (images - expected)[valid.expand_as(images)]
    return -10 * math.log10(error.square().mean().item())


@pytest.mark.parametrize("displacement", OFFSETS)
def test_a_slanted_plane_looks_as_from_the_displaced_camera(displacement):
    offset = offset_of(*displacement)
    image, depth = view_of_plane(torch.zeros(1, 3))
    expected, _ = view_of_plane(offset)
    warped, valid = OrbitWarp().warp(image, depth, offset, CAMERA)
    assert valid.float().mean() > 0.6
    assert psnr(warped, expected, valid) > 32
    assert psnr(warped, expected, valid) > psnr(image, expected, valid) + 10


def square_before_a_wall(depth_of_square=0.5):
    """A white square, 16 px wide, before a black wall at 1 m whose columns get brighter."""
    depth = torch.ones(1, SIDE, SIDE)
    image = torch.linspace(0, 0.5, SIDE).expand(1, 3, SIDE, SIDE).clone()
    depth[:, 8:24, 8:24], image[..., 8:24, 8:24] = depth_of_square, 1.0
    return image, depth


def test_what_is_near_covers_what_is_far_and_uncovers_a_hole():
    image, depth = square_before_a_wall()
    warped, valid = OrbitWarp().warp(image, depth, offset_of(0, 10, 0), CAMERA)
    white = (warped[0, 0] > 0.9).nonzero()
    # Nearer than the look-at point, so it moves left; about as wide as before.
    assert white[:, 1].float().mean() < 15.5 - 4
    row = 16
    columns = white[white[:, 0] == row, 1]
    assert abs(len(columns) - 16) <= 3
    # The wall behind it was not visible: a hole to its right, black.
    hole = ~valid[0, 0, row, columns.max() + 1 : columns.max() + 4]
    assert hole.all()
    assert (warped[0, :, row, columns.max() + 1 : columns.max() + 4] == 0).all()


def test_the_look_at_point_stays_at_its_place():
    image, depth = view_of_plane(torch.zeros(1, 3))
    centre = slice(SIDE // 2 - 2, SIDE // 2 + 2)
    for displacement in OFFSETS:
        warped, _ = OrbitWarp().warp(image, depth, offset_of(*displacement), CAMERA)
        around = (slice(None), slice(None), centre, centre)
        assert (warped[around] - image[around]).abs().max() < 0.06


def test_no_displacement_changes_nothing_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    depth = torch.rand(2, SIDE, SIDE, generator=generator) + 0.5
    offset = torch.cat((torch.zeros(1, 3), offset_of(0.1, 5, 5)))
    warped, valid = OrbitWarp().warp(images, depth, offset, CAMERA.expand(2, 3, 3))
    assert torch.equal(warped[0], images[0])
    assert valid[0].all()
    assert warped.dtype == torch.uint8
    assert not torch.equal(warped[1], images[1])


def test_images_do_not_depend_on_the_rest_of_the_batch():
    image, depth = view_of_plane(torch.zeros(1, 3))
    offsets = torch.cat([offset_of(*each) for each in OFFSETS])
    count = len(offsets)
    whole, valid = OrbitWarp().warp(
        image.expand(count, -1, -1, -1),
        depth.expand(count, -1, -1),
        offsets,
        CAMERA.expand(count, 3, 3),
    )
    for row in range(count):
        one, known = OrbitWarp().warp(image, depth, offsets[row : row + 1], CAMERA)
        assert torch.equal(one[0], whole[row])
        assert torch.equal(known[0], valid[row])


def test_pixels_of_unknown_depth_are_holes():
    image, depth = view_of_plane(torch.zeros(1, 3))
    depth[:, :10] = 0
    warped, valid = OrbitWarp().warp(image, depth, offset_of(0, 2, 0), CAMERA)
    assert not valid[:, :, :6].any()
    assert (warped[:, :, :6] == 0).all()
    assert valid[:, :, 14:50, 4:60].all()


def test_an_unknown_look_at_point_is_refused():
    image, depth = view_of_plane(torch.zeros(1, 3))
    depth[:] = 0
    with pytest.raises(ValueError, match="expected a positive depth at the principal point"):
        OrbitWarp().warp(image, depth, offset_of(0, 2, 0), CAMERA)


def test_displacements_stay_within_the_limits_and_fill_them():
    warp = OrbitWarp(max_yaw=20, max_pitch=10, max_radial=0.3)
    offset = warp.sample(4000, torch.Generator().manual_seed(0))
    largest = torch.tensor([0.3, math.radians(20), math.radians(10)])
    assert (offset.abs() <= largest).all()
    assert (offset.abs().amax(0) > 0.99 * largest).all()
    torch.testing.assert_close(offset.mean(0), torch.zeros(3), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_yaw": 90.0}, "max_yaw: expected a number from 0 to below 90, got 90"),
        ({"max_pitch": -1.0}, "max_pitch: expected a number from 0 to below 90, got -1"),
        ({"max_radial": 1.0}, "max_radial: expected a number from 0 to below 1, got 1"),
    ],
)
def test_limits_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        OrbitWarp(**wrong)


def test_shapes_that_do_not_fit_are_refused():
    image, depth = view_of_plane(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"expected images .* got \(1, 3, 64, 64\), \(1, 1, 64"):
        OrbitWarp().warp(image, depth[:, None], offset_of(0, 2, 0), CAMERA)
