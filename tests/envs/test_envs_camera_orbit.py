import numpy as np
import pytest

from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraGrid, look_at_point, orbit, suffix


def camera_at(position, target):
    """Pose at `position` with the x axis towards `target` and a level horizon."""
    forward = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    left = np.cross([0, 0, 1], forward)
    left /= np.linalg.norm(left)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([forward, left, np.cross(forward, left)], axis=1)
    pose[:3, 3] = position
    return pose


TARGET = np.array([0.1, -0.2, 0.0])
CAMERA = camera_at([0.6, 0.1, 0.7], TARGET)


@pytest.mark.parametrize("offset", [(15, 0, 0), (-10, 5, 0), (0, -15, 0.3), (40, 20, -0.4)])
def test_a_displaced_camera_keeps_its_target_at_the_given_distance(offset):
    moved = orbit(CAMERA, TARGET, offset)
    distance = np.linalg.norm(CAMERA[:3, 3] - TARGET)
    line = TARGET - moved[:3, 3]
    np.testing.assert_allclose(np.linalg.norm(line), distance * (1 + offset[2]))
    np.testing.assert_allclose(moved[:3, 0], line / np.linalg.norm(line), atol=1e-12)
    assert abs(moved[2, 1]) < 1e-12  # the horizon stays level
    np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-12)


def angles(pose):
    arm = pose[:3, 3] - TARGET
    return np.rad2deg([np.arctan2(arm[1], arm[0]), np.arctan2(arm[2], np.hypot(*arm[:2]))])


def test_azimuth_and_elevation_change_by_the_given_degrees():
    moved = orbit(CAMERA, TARGET, (12, 7, 0))
    np.testing.assert_allclose(angles(moved) - angles(CAMERA), [12, 7])


def test_no_offset_preserves_the_pose():
    np.testing.assert_allclose(orbit(CAMERA, TARGET, NO_OFFSET), CAMERA, atol=1e-15)


def test_an_orbit_over_the_top_is_refused():
    with pytest.raises(ValueError, match="below 90 degrees above its target"):
        orbit(CAMERA, TARGET, (0, 60, 0))


def test_the_look_at_point_is_on_the_table():
    np.testing.assert_allclose(look_at_point(CAMERA[:3, 3], CAMERA[:3, 0], 0.0), TARGET, atol=1e-12)
    with pytest.raises(ValueError, match="directed at the table"):
        look_at_point(CAMERA[:3, 3], np.array([1.0, 0, 0.1]), 0.0)


def test_a_grid_has_every_combination():
    grid = CameraGrid(azimuth=(-5, 0, 5), elevation=(0, 10))
    assert len(grid.offsets(3)) == 6
    assert (-5, 10, 0.0) in grid.offsets(3)


def test_one_displacement_is_sampled_per_episode_and_is_reproducible():
    grid = CameraGrid(azimuth=(-15, 15), distance=(0, 0.2), sample=True)
    offsets = [grid.offsets(seed) for seed in range(50)]
    assert offsets == [grid.offsets(seed) for seed in range(50)]
    azimuth = np.array([each[0][0] for each in offsets])
    assert {len(each) for each in offsets} == {1}
    assert azimuth.min() < -10 < 10 < azimuth.max()
    assert np.abs(azimuth).max() <= 15


@pytest.mark.parametrize(
    "wrong", [{"azimuth": ()}, {"elevation": (95,)}, {"distance": (-1,)}], ids=str
)
def test_displacements_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="camera_offset"):
        CameraGrid(**wrong)


def test_file_names_differ_by_displacement():
    assert suffix(NO_OFFSET) == ""
    assert suffix((5, 0, -0.1)) == "_+5_+0_-0.1"
