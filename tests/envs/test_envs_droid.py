"""ManiSkill's Panda behind DROID's interface: units, conventions, time."""

from dataclasses import replace

import numpy as np
import pytest

from e0_lightning.envs.camera_orbit import CameraError
from e0_lightning.envs.droid import DroidEnvironment, check_spec
from e0_lightning.envs.droid_panda import DroidPanda, joint_velocity
from e0_lightning.types import PolicySpec

TASK = "PushCube-v1"
SPEC = PolicySpec(
    views={"exterior_image_1_left": 224},
    state={"joint_position": 7, "gripper_position": 1},
    action_dim=8,
    control_mode="joint_velocity",
    horizon=10,
)


@pytest.fixture(scope="module")
def panda():
    panda = DroidPanda(TASK)
    yield panda
    panda.close()


@pytest.mark.simulator
def test_frames_are_640_by_360_pixels_of_an_exterior_and_a_wrist_camera(panda):
    panda.reset(0)
    frames = panda.frames()
    assert list(frames) == ["exterior_image_1_left", "wrist_image_left"]
    assert {frame.shape for frame in frames.values()} == {(360, 640, 3)}
    for frame in frames.values():  # the target is in view of both
        red = frame.astype(int) @ [1, -1, -1] > 50
        assert red.sum() > 100


@pytest.mark.simulator
def test_the_gripper_is_0_when_open_and_1_when_closed(panda):
    panda.reset(0)
    assert panda.gripper_position == pytest.approx([0])
    for action in (1.0, 0.0):
        panda.command([0] * 7 + [action])
        for _ in range(8):
            panda.advance()
        assert panda.gripper_position == pytest.approx([action], abs=0.01)


@pytest.mark.simulator
def test_velocity_1_moves_a_joint_by_a_fifth_of_a_radian_which_is_held(panda):
    panda.reset(0)
    start = panda.joint_position
    panda.command([0.5, 0, 0, 0, 0, 0, -1, 0])
    for _ in range(60):
        panda.advance()
    moved = panda.joint_position - start
    assert moved == pytest.approx([0.1, 0, 0, 0, 0, 0, -0.2], abs=2e-3)


@pytest.mark.simulator
def test_velocities_beyond_1_are_scaled_together(panda):
    panda.reset(0)
    expected = np.float32([0.2, 0.1, 0, 0, 0, 0, -0.05])
    panda.command([4, 2, 0, 0, 0, 0, -1, 0])
    np.testing.assert_allclose(panda._target[:7] - panda.joint_position, expected, atol=1e-6)


@pytest.mark.simulator
def test_a_control_period_may_be_divided(panda):
    ends = []
    for parts in ([8, 8], [3, 5, 0, 8]):
        panda.reset(1)
        panda.command([0.3, 0.2, -0.1, 0.4, 0, 0, 0.2, 1])
        for steps in parts:
            panda.advance(steps)
        ends.append(panda.joint_position)
    np.testing.assert_array_equal(*ends)


def test_joint_velocity_is_the_inverse_of_a_command():
    position = np.linspace(-1, 1, 7)
    target = position + np.array([0.1, -0.2, 0, 0.05, 0.3, -0.4, 0.2])
    expected = [0.5, -1, 0, 0.25, 1, -1, 1]
    np.testing.assert_allclose(joint_velocity(target, position), expected, atol=1e-6)


@pytest.mark.simulator
@pytest.mark.usefixtures("panda")  # keeps the compiled shaders alive
def test_an_environment_observes_views_and_state_of_its_spec():
    environment = DroidEnvironment(TASK, SPEC)
    first = environment.reset(2)
    frames = []
    result = environment.run(np.zeros((2, 8), np.float32), last=False, on_frame=frames.append)
    with pytest.raises(CameraError, match="expected no displacement"):
        environment.reset(2, (10.0, 0.0, 0.0))
    environment.close()
    assert (result.success, result.steps, len(frames)) == (False, 2, 2)
    (image,) = first.images.values()
    assert image.shape == (224, 224, 3)
    assert not image[:49].any()
    assert image[49:175].any(axis=(1, 2)).all()
    assert first.state.shape == (8,)
    assert first.state[7] == pytest.approx(0)
    assert first.instruction == "push the cube to the target region"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": {"base_camera": 64}}, "among exterior_image_1_left, .*got base_camera"),
        ({"state": {"joint_position": 9}}, "got {'joint_position': 9} from the actor"),
        ({"action_dim": 7}, "expected 8 action dimensions in joint_velocity, got 7"),
        ({"control_mode": "pd_joint_pos"}, "got 8 in 'pd_joint_pos'"),
    ],
    ids=["view", "state", "dimensions", "controller"],
)
def test_an_incompatible_spec_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_spec(TASK, replace(SPEC, **wrong))
    check_spec(TASK, replace(SPEC, views={}, state={}))
