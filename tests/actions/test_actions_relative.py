import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from e0_lightning.actions.relative import RelativeActions, RelativeRotation
from e0_lightning.actions.rotations import REPRESENTATIONS, wrap
from e0_lightning.types import PolicySpec

SPEC = PolicySpec(state={"gripper": 2, "qpos": 7})


def resolved(actions, qpos, angles=()):
    """Relative to joint positions that are the whole state."""
    spec = PolicySpec(state={"qpos": 9})
    return RelativeActions(actions, {"qpos": qpos}, angles).resolve_state(spec)


def test_the_state_is_subtracted_from_listed_dimensions():
    relative = resolved([0, 2], [3, 1])
    actions = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    state = torch.tensor([[9.0, 10.0, 11.0, 0.5]])
    expected = torch.tensor([[[0.5, 2.0, -7.0, 4.0], [4.5, 6.0, -3.0, 8.0]]])
    assert relative(actions, state).equal(expected)


def test_the_arguments_are_not_modified():
    actions, state = torch.ones(1, 2, 3), torch.ones(1, 3)
    resolved([0], [0])(actions, state)
    assert actions.equal(torch.ones(1, 2, 3))


@given(st.permutations(range(7)), st.integers(0, 7), st.integers(0, 1000))
def test_round_trip_leaves_the_gripper_untouched(order, count, seed):
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(3, 5, 8, generator=generator)
    state = torch.randn(3, 9, generator=generator)
    relative = resolved(order[:count], list(range(count)))
    back = relative.undo(relative(actions, state), state)
    assert torch.allclose(back, actions, atol=1e-6)
    assert relative(actions, state)[..., 7].equal(actions[..., 7])


def test_differences_of_angles_are_wrapped():
    relative = resolved([0, 1], [0, 1], angles=[1])
    actions, state = torch.tensor([[[3.0, -3.1], [3.0, 3.0]]]), torch.tensor([[-3.0, 3.1]])
    short = 2 * torch.pi - 6.2
    torch.testing.assert_close(
        relative(actions, state), torch.tensor([[[6.0, short], [6.0, -0.1]]]), atol=1e-6, rtol=0
    )


@given(st.floats(-3.1415925, 3.1415925), st.floats(-3.1415925, 3.1415925))
def test_the_round_trip_of_an_angle_is_exact(action, state):
    relative = resolved([0], [0], angles=[0])
    actions, states = torch.tensor([[[action]]]), torch.tensor([[state]])
    offset = relative(actions, states)
    assert offset.abs() <= torch.pi + 1e-6
    back = relative.undo(offset, states)
    # At ±π, rounding may change the sign.
    assert wrap(back - actions).abs() <= 2e-6
    assert back.abs() <= torch.pi + 1e-6


def test_angles_outside_of_the_relative_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"angles: expected some of .* \[0, 1\], got \[2\]"):
        RelativeActions([0, 1], {"qpos": [0, 1]}, angles=[2])


@pytest.mark.parametrize(
    ("actions", "state", "message"),
    [
        ([0, 1], [0], "one state dimension per action dimension, got 1"),
        ([0, 0], [0, 1], "each action dimension once"),
        ([-1], [0], "counted from 0"),
        ([0], [-1], "counted from 0"),
    ],
)
def test_inconsistent_dimensions_are_refused(actions, state, message):
    with pytest.raises(ValueError, match=message):
        RelativeActions(actions, {"qpos": state})


@pytest.mark.parametrize(
    ("actions", "state", "message"),
    [
        ([4], [0], "action dimensions from 0 to 3, got 4"),
        ([0], [6], "state dimensions from 0 to 5, got 6"),
    ],
)
def test_missing_dimensions_are_refused(actions, state, message):
    with pytest.raises(ValueError, match=message):
        resolved(actions, state)(torch.zeros(1, 2, 4), torch.zeros(1, 6))


def test_state_dimensions_are_looked_up_by_part():
    relative = RelativeActions([1, 0], {"qpos": [6], "gripper": [1]}).resolve_state(SPEC)
    state = torch.arange(9.0)[None]
    shifted = relative(torch.zeros(1, 1, 2), state)
    assert shifted.flatten().tolist() == [-1.0, -8.0]
    assert relative.undo(shifted, state).eq(0).all()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"joints": [0]}, r"relative.state: expected state parts among \['gripper', 'qpos'\]"),
        ({"gripper": [2]}, "relative.state: expected dimensions of 'gripper' from 0 to 1"),
    ],
)
def test_unknown_state_parts_and_dimensions_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        RelativeActions([0], state).resolve_state(SPEC)


def test_use_before_the_state_is_resolved_is_refused():
    with pytest.raises(ValueError, match=r"Call resolve_state\(spec\)"):
        RelativeActions([0], {"qpos": [0]})(torch.zeros(1, 1, 1), torch.zeros(1, 9))


NAMES = [
    "axis_angle",
    "quaternion_wxyz",
    "quaternion_xyzw",
    "rotation_6d_rows",
    "rotation_6d_columns",
    "euler_xyz",
    "euler_ZYX",
]


def write(name, rotation, dtype=torch.float32):
    """Numbers of a scipy rotation in a representation."""
    quaternion = torch.from_numpy(np.roll(rotation.as_quat(), 1, axis=-1))
    return REPRESENTATIONS[name].from_quaternion(quaternion).to(dtype)


def read(name, values):
    quaternion = REPRESENTATIONS[name].to_quaternion(values.double())
    return Rotation.from_quat(np.roll(quaternion.flatten(0, -2).numpy(), -1, axis=-1))


def rotating(name, state_name=None):
    """A pose: a position, a rotation in the given representation, and a gripper."""
    sizes = [REPRESENTATIONS[each].size for each in (name, state_name or name)]
    rotation = RelativeRotation(
        list(range(3, 3 + sizes[0])), {"rotation": list(range(sizes[1]))}, name, state_name
    )
    relative = RelativeActions([0, 1, 2], {"position": [0, 1, 2]}, rotations=[rotation])
    spec = PolicySpec(state={"rotation": sizes[1], "position": 3})
    return relative.resolve_state(spec)


def pose(values):
    """Actions of a rotation's values ``(…, n)`` at the origin, with an open gripper."""
    zeros = values.new_zeros(*values.shape[:-1], 3)
    return torch.cat([zeros, values, zeros[..., :1] + 1], dim=-1)


def state_of(values):
    return torch.cat([values, values.new_zeros(len(values), 3)], dim=-1)


@pytest.mark.parametrize("name", NAMES)
def test_relative_rotations_are_those_of_scipy(name):
    states, targets = Rotation.random(300, random_state=0), Rotation.random(300, random_state=1)
    actions = pose(write(name, targets, torch.float64)).unsqueeze(1)
    relative = rotating(name)(actions, state_of(write(name, states, torch.float64)))
    size = REPRESENTATIONS[name].size
    expected = (targets * states.inv()).as_rotvec()
    np.testing.assert_allclose(relative[:, 0, 3:6], expected, atol=1e-7)
    assert relative[:, 0, 6 : 3 + size].eq(0).all()
    assert relative[:, 0, 3 + size].eq(1).all()


@pytest.mark.parametrize("state_name", [None, "quaternion_xyzw"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("angle", [0.1, 3.1415, np.pi])
def test_the_round_trip_is_the_same_rotation(name, state_name, angle):
    states = Rotation.random(100, random_state=2)
    axes = Rotation.random(100, random_state=3).apply([0, 0, 1])
    targets = Rotation.from_rotvec(angle * axes) * states
    actions = pose(write(name, targets)).unsqueeze(1)
    state = state_of(write(state_name or name, states))
    relative = rotating(name, state_name)
    back = relative.undo(relative(actions, state), state)
    error = read(name, back[..., 3:-1]) * targets.inv()
    assert error.magnitude().max() < 1e-5
    assert back[..., [0, 1, 2, -1]].equal(actions[..., [0, 1, 2, -1]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("middle", [0.0, np.pi / 2])
def test_a_turning_gripper_gives_continuous_relative_actions(name, middle):
    """It turns through ±π, and through the gimbal lock of Euler angles."""
    angles = np.linspace(np.pi - 0.3, np.pi + 0.3, 61)
    turning = Rotation.from_euler(
        "xyz", np.stack([angles, middle + 0 * angles, angles - 1], axis=-1)
    )
    actions = pose(write(name, turning))[None]
    relative = rotating(name)(actions, state_of(write(name, turning[:1])))[0, :, 3:6]
    expected = np.linalg.norm((turning[1:] * turning[:-1].inv()).as_rotvec(), axis=-1).max()
    assert relative.diff(dim=0).norm(dim=-1).max() < 1.2 * expected + 1e-5


@pytest.mark.parametrize("name", ["quaternion_wxyz", "quaternion_xyzw"])
def test_the_sign_of_a_quaternion_does_not_matter(name):
    states, targets = Rotation.random(50, random_state=4), Rotation.random(50, random_state=5)
    relative = rotating(name)
    actions, state = pose(write(name, targets)).unsqueeze(1), state_of(write(name, states))
    expected = relative(actions, state)
    actions[..., 3:7] *= -1
    torch.testing.assert_close(relative(actions, state), expected, atol=1e-6, rtol=0)
    state[::2, :4] *= -1
    torch.testing.assert_close(relative(actions, state), expected, atol=1e-6, rtol=0)


def test_quaternions_of_a_chunk_keep_their_sign_near_that_of_the_state():
    states = Rotation.from_rotvec([[np.pi - 0.05, 0, 0]])
    turning = Rotation.from_rotvec(np.linspace(-0.2, 0.2, 9)[:, None] * [1, 0, 0]) * states
    for sign in (1, -1):
        state = state_of(sign * write("quaternion_wxyz", states))
        relative = rotating("quaternion_wxyz")
        actions = pose(write("quaternion_wxyz", turning))[None]
        back = relative.undo(relative(actions, state), state)[0, :, 3:7]
        assert (back * state[:, :4]).sum(dim=-1).min() > 0.9


def test_differences_of_rotations_and_angles_take_the_short_way():
    relative = RelativeActions(
        [0], {"joint": [0]}, [0], [RelativeRotation([1, 2, 3], {"euler": [0, 1, 2]}, "euler_xyz")]
    )
    first = torch.tensor([[3.1, 3.1, 0.0, 0.0, 1.0]])
    second = torch.tensor([[-3.1, -3.1, 0.0, 0.0, 0.5]])
    short = 6.2 - 2 * torch.pi
    expected = torch.tensor([[short, short, 0, 0, 0.5]])
    torch.testing.assert_close(relative.difference(first, second), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 4, 5, 6], {"q": [0, 1, 2, 3]}, "quaternion"), "expected axis_angle, .*quaternion_w"),
        (([3, 4, 5], {"q": [0, 1, 2, 3]}, "quaternion_wxyz"), r"rotations.actions: expected 4"),
        (([3, 4, 5], {"q": [0, 1]}, "euler_xyz"), r"rotations.state: expected 3 .*got 2"),
        (([3, 4, 5], {"q": [0, 1, 2]}, "euler_xyz", "rotation_6d_rows"), "state: expected 6"),
    ],
)
def test_rotations_of_another_size_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RelativeRotation(*arguments)


def test_a_dimension_that_is_both_subtracted_and_rotated_is_refused():
    rotation = RelativeRotation([2, 3, 4], {"euler": [0, 1, 2]}, "euler_xyz")
    with pytest.raises(ValueError, match="each action dimension once in actions and rotations"):
        RelativeActions([0, 1, 2], {"position": [0, 1, 2]}, rotations=[rotation])


def test_a_rotation_of_a_missing_state_part_is_refused():
    rotation = RelativeRotation([0, 1, 2], {"euler": [0, 1, 2]}, "euler_xyz")
    with pytest.raises(ValueError, match=r"relative.rotations.state: expected state parts among"):
        RelativeActions([], {}, rotations=[rotation]).resolve_state(SPEC)
