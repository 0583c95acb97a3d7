import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e0_lightning.actions.relative import RelativeActions, wrap


def test_named_dimensions_are_measured_from_the_state():
    relative = RelativeActions(actions=[0, 2], state=[3, 1])
    actions = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    state = torch.tensor([[9.0, 10.0, 11.0, 0.5]])
    expected = torch.tensor([[[0.5, 2.0, -7.0, 4.0], [4.5, 6.0, -3.0, 8.0]]])
    assert relative(actions, state).equal(expected)


def test_what_is_given_stays_as_it_is():
    actions, state = torch.ones(1, 2, 3), torch.ones(1, 3)
    RelativeActions([0], [0])(actions, state)
    assert actions.equal(torch.ones(1, 2, 3))


@given(st.permutations(range(7)), st.integers(0, 7), st.integers(0, 1000))
def test_round_trip_leaves_the_gripper_untouched(order, count, seed):
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(3, 5, 8, generator=generator)
    state = torch.randn(3, 9, generator=generator)
    relative = RelativeActions(order[:count], list(range(count)))
    back = relative.undo(relative(actions, state), state)
    assert torch.allclose(back, actions, atol=1e-6)
    assert relative(actions, state)[..., 7].equal(actions[..., 7])


def test_an_angle_goes_the_shorter_way_around():
    relative = RelativeActions([0, 1], [0, 1], angles=[1])
    actions, state = torch.tensor([[[3.0, -3.1], [3.0, 3.0]]]), torch.tensor([[-3.0, 3.1]])
    short = 2 * torch.pi - 6.2
    torch.testing.assert_close(
        relative(actions, state), torch.tensor([[[6.0, short], [6.0, -0.1]]]), atol=1e-6, rtol=0
    )


@given(st.floats(-3.1415925, 3.1415925), st.floats(-3.1415925, 3.1415925))
def test_an_angle_comes_back_as_it_was(action, state):
    relative = RelativeActions([0], [0], angles=[0])
    actions, states = torch.tensor([[[action]]]), torch.tensor([[state]])
    offset = relative(actions, states)
    assert offset.abs() <= torch.pi + 1e-6
    back = relative.undo(offset, states)
    # At the seam itself, rounding may bring the same angle back from the other side.
    assert wrap(back - actions).abs() <= 2e-6
    assert back.abs() <= torch.pi + 1e-6


def test_half_a_turn_is_positive_and_what_is_in_range_is_left_alone():
    inside = torch.tensor([-3.1415, -1.0, 0.0, 1e-9, 3.1415])
    assert wrap(inside).equal(inside)
    turns = torch.tensor([torch.pi, -torch.pi, 3 * torch.pi], dtype=torch.float64)
    torch.testing.assert_close(wrap(turns), torch.full((3,), torch.pi, dtype=torch.float64))


def test_angles_are_some_of_the_relative_dimensions():
    with pytest.raises(ValueError, match=r"angles \[2\] are not all among .* \[0, 1\]"):
        RelativeActions([0, 1], [0, 1], angles=[2])


@pytest.mark.parametrize(
    ("actions", "state", "message"),
    [
        ([0, 1], [0], "2 action dimensions"),
        ([0, 0], [0, 1], "name one twice"),
        ([-1], [0], "count from 0"),
        ([0], [-1], "count from 0"),
    ],
)
def test_dimensions_that_cannot_be_are_refused(actions, state, message):
    with pytest.raises(ValueError, match=message):
        RelativeActions(actions, state)


@pytest.mark.parametrize(
    ("actions", "state", "message"),
    [([4], [0], "action dimension 4, but there are 4"), ([0], [6], "state dimension 6, but there")],
)
def test_dimensions_that_are_not_there_are_refused(actions, state, message):
    with pytest.raises(ValueError, match=message):
        RelativeActions(actions, state)(torch.zeros(1, 2, 4), torch.zeros(1, 6))
