"""The orbit compared with a camera that is moved in ManiSkill's renderer, at 128 px."""

import math

import pytest
import torch
from test_augment_renderer import SIDE, TO_OURS, psnr

from e0_lightning.augment.orbit import OrbitWarp
from e0_lightning.augment.spherical_warp import SphericalWarp, rotation
from e0_lightning.envs.vulkan import backend

pytestmark = pytest.mark.simulator

OFFSETS = [(0.0, 15, 0), (0.0, -15, 0), (0.0, 0, 15), (0.0, 0, -15), (0.1, 0, 0), (-0.1, 0, 0)]
OFFSETS += [(0.05, 10, 10), (0.05, -10, 10), (-0.05, 10, -10), (-0.05, -10, -10)]


class MovedCamera:
    """StackCube's camera, which moves around its look-at point; images and depth."""

    def __init__(self):
        import gymnasium
        import mani_skill.envs  # noqa: F401

        self.env = gymnasium.make(
            "StackCube-v1",
            obs_mode="rgb+depth",
            num_envs=1,
            sim_backend="physx_cpu",
            render_backend=backend(),
            sensor_configs={"width": SIDE, "height": SIDE},
        )
        self.env.reset(seed=0)
        self.camera = self.env.unwrapped._sensors["base_camera"].camera
        self.home = torch.from_numpy(self.camera.get_local_pose().sp.to_transformation_matrix())
        self.intrinsics = self.camera.get_intrinsic_matrix().float().cpu().view(1, 3, 3)
        self.images, self.depth = self.render(torch.eye(3), torch.zeros(3))
        self.distance = self.depth[0, SIDE // 2, SIDE // 2]

    def render(self, turn, shift):
        """Image and depth where the scene moves by ``X' = R X + t`` in the camera's frame."""
        import sapien

        moved = torch.eye(4, dtype=torch.float64)
        moved[:3, :3] = TO_OURS.T @ turn.double() @ TO_OURS
        moved[:3, 3] = TO_OURS.T @ shift.double()
        pose = self.home.double() @ torch.linalg.inv(moved)
        self.camera.set_local_pose(sapien.Pose(pose.numpy()))
        seen = self.env.unwrapped.get_obs()["sensor_data"]["base_camera"]
        return seen["rgb"].permute(0, 3, 1, 2).clone(), seen["depth"][..., 0].float() / 1000

    def orbit(self, offset):
        """Image from the displaced camera."""
        turn = rotation(offset[:, 1], offset[:, 2])[0]
        target = torch.tensor([0.0, 0.0, float(self.distance)])
        return self.render(turn, (1 + offset[0, 0]) * target - turn @ target)[0]


@pytest.fixture(scope="module")
def camera():
    camera = MovedCamera()
    yield camera
    camera.env.close()


@pytest.mark.parametrize("displacement", OFFSETS)
def test_an_orbit_agrees_with_a_camera_that_moves(camera, displacement):
    radial, yaw, pitch = displacement
    offset = torch.tensor([[radial, math.radians(yaw), math.radians(pitch)]])
    moved = camera.orbit(offset)
    warped, valid = OrbitWarp().warp(camera.images, camera.depth, offset, camera.intrinsics)
    rotated, _ = SphericalWarp().warp(camera.images, offset[:, 1], offset[:, 2], camera.intrinsics)
    agreement = [psnr(each, moved, valid) for each in (warped, rotated, camera.images)]
    assert valid.float().mean() > 0.6
    assert agreement[0] >= 23
    assert agreement[0] >= max(agreement[1:]) + 3
