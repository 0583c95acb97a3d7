import math

import pytest
import torch

from e0_lightning.augment.spherical_warp import SphericalWarp, rotation
from e0_lightning.geometry import camera_matrix

SIDE = 64
CAMERA = torch.from_numpy(camera_matrix(80.0, SIDE, SIDE))
YAWS = torch.tensor([0.26, -0.26, 0.0, 0.1, -0.2])
PITCHES = torch.tensor([0.0, 0.2, -0.26, 0.26, -0.1])
CAMERAS = CAMERA.expand(len(YAWS), 3, 3)


def noise(batch: int = len(YAWS), side: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, 3, side, side), generator=generator, dtype=torch.uint8)


def rays() -> torch.Tensor:
    """Viewing direction of every pixel centre, ``(S, S, 3)``."""
    centres = torch.arange(SIDE, dtype=torch.float64) + 0.5
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack((u, v, torch.ones_like(u)), dim=-1) @ CAMERA.double().inverse().T


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_zero_angles_return_the_image_unchanged_to_the_bit(dtype):
    images = noise().to(dtype)
    zero = torch.zeros(len(images))
    warped, valid = SphericalWarp().warp(images, zero, zero, CAMERAS)
    assert torch.equal(warped, images)
    assert warped.dtype == dtype
    assert valid.dtype == torch.bool
    assert valid.all()


def test_a_sample_with_zero_angles_is_unchanged_in_a_mixed_batch():
    images = noise().float()
    yaw, pitch = YAWS.clone(), PITCHES.clone()
    yaw[2] = pitch[2] = 0
    warped, _ = SphericalWarp().warp(images, yaw, pitch, CAMERAS)
    assert torch.equal(warped[2], images[2])
    assert not torch.equal(warped[1], images[1])


def test_a_point_of_the_scene_is_warped_to_its_projection():
    point = torch.tensor([0.15, -0.1, 1.2], dtype=torch.float64)
    centres = torch.arange(SIDE) + 0.5

    def blob(where: torch.Tensor) -> torch.Tensor:
        u, v = (CAMERA.double() @ where)[:2] / where[2]
        distance = (centres[None, :] - u) ** 2 + (centres[:, None] - v) ** 2
        return torch.exp(-distance / 4.5).expand(1, 3, SIDE, SIDE).float()

    for yaw, pitch in zip(YAWS, PITCHES, strict=True):
        rotated = rotation(yaw[None].double(), pitch[None].double())[0]
        warped, _ = SphericalWarp().warp(blob(point), yaw[None], pitch[None], CAMERA[None])
        weight = warped[0, 0] / warped[0, 0].sum()
        center = torch.stack(((weight.sum(0) * centres).sum(), (weight.sum(1) * centres).sum()))
        expected = (CAMERA.double() @ rotated @ point)[:2] / (rotated @ point)[2]
        # The blob stretches away from the middle, which takes its centre of mass along a little.
        torch.testing.assert_close(center.double(), expected, atol=0.1, rtol=0)


def test_an_image_of_directions_is_rotated_exactly():
    linear_in_pixels = rays()[..., :2].permute(2, 0, 1).float()
    image = torch.cat((linear_in_pixels, torch.ones(1, SIDE, SIDE)))
    warped, valid = SphericalWarp().warp(image.expand(5, -1, -1, -1), YAWS, PITCHES, CAMERAS)
    rotated = rotation(YAWS.double(), PITCHES.double())
    expected = torch.einsum("bji,vuj->bivu", rotated, rays())
    expected = (expected / expected[:, 2:]).float()
    # The outermost half pixel repeats the border instead of going on.
    limit = (SIDE - 1) / 2 / CAMERA[0, 0]
    interior = valid & (expected[:, :2].abs() < limit).all(dim=1, keepdim=True)
    for channel in range(3):
        torch.testing.assert_close(
            warped[:, channel][interior[:, 0]],
            expected[:, channel][interior[:, 0]],
            atol=2e-5,
            rtol=0,
        )
    assert interior.float().mean() > 0.6


def test_pixels_outside_of_the_source_are_black_and_not_valid():
    images = noise().clamp(min=1)
    warped, valid = SphericalWarp().warp(images, YAWS, PITCHES, CAMERAS)
    rotated = rotation(YAWS.double(), PITCHES.double())
    source = torch.einsum("bji,vuj->bvui", rotated, rays()) @ CAMERA.double().T
    pixel = source[..., :2] / source[..., 2:]
    expected = ((pixel >= 0) & (pixel <= SIDE)).all(dim=-1).unsqueeze(1)
    assert torch.equal(valid, expected)
    assert torch.equal(warped.amin(dim=1, keepdim=True) > 0, valid)


def test_directions_behind_the_source_camera_are_not_valid():
    camera = torch.from_numpy(camera_matrix(150.0, SIDE, SIDE))[None]
    warp = SphericalWarp()
    warped, valid = warp.warp(noise(1), torch.tensor([math.radians(60)]), torch.zeros(1), camera)
    assert valid[..., -1].all()
    assert not valid[..., 0].any()
    assert (warped[..., 0] == 0).all()


def test_uint8_images_equal_rounded_float_images():
    images = noise()
    as_bytes, _ = SphericalWarp().warp(images, YAWS, PITCHES, CAMERAS)
    as_floats, _ = SphericalWarp().warp(images.float(), YAWS, PITCHES, CAMERAS)
    assert as_bytes.dtype == torch.uint8
    assert torch.equal(as_bytes, as_floats.round().to(torch.uint8))


def test_samples_of_a_batch_are_independent():
    images = noise()
    together, _ = SphericalWarp().warp(images, YAWS, PITCHES, CAMERAS)
    alone, _ = SphericalWarp().warp(images[3:4], YAWS[3:4], PITCHES[3:4], CAMERAS[3:4])
    assert torch.equal(together[3:4], alone)


def test_sampled_angles_cover_the_limits_and_repeat_with_the_seed():
    warp = SphericalWarp(max_yaw=15, max_pitch=5)
    yaw, pitch = warp.sample(4000, torch.Generator().manual_seed(3))
    assert 14.9 < yaw.abs().max().rad2deg() <= 15
    assert 4.9 < pitch.abs().max().rad2deg() <= 5
    assert yaw.mean().rad2deg().abs() < 0.5
    again, _ = warp.sample(4000, torch.Generator().manual_seed(3))
    assert torch.equal(yaw, again)


@pytest.mark.parametrize("limits", [{"max_yaw": -1.0}, {"max_pitch": 90.0}])
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(ValueError, match="expected degrees from 0 to below 90"):
        SphericalWarp(**limits)


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"expected images \(B, 3, h, w\).*got .*, \(3,\), \(5,\)"):
        SphericalWarp().warp(noise(), YAWS[:3], PITCHES, CAMERAS)
