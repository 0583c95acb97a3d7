import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e0_lightning.actions.relative import RelativeActions, wrap
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


def test_wrap_maps_half_turns_to_pi_and_keeps_angles_in_range():
    inside = torch.tensor([-3.1415, -1.0, 0.0, 1e-9, 3.1415])
    assert wrap(inside).equal(inside)
    turns = torch.tensor([torch.pi, -torch.pi, 3 * torch.pi], dtype=torch.float64)
    torch.testing.assert_close(wrap(turns), torch.full((3,), torch.pi, dtype=torch.float64))


def test_angles_outside_of_the_relative_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"angles: expected some of .* \[0, 1\], got \[2\]"):
        RelativeActions([0, 1], {"qpos": [0, 1]}, angles=[2])


@pytest.mark.parametrize(
    ("actions", "state", "message"),
    [
        ([0, 1], [0], "one state dimension per action dimension, got 1"),
        ([0, 0], [0, 1], "each dimension once"),
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
