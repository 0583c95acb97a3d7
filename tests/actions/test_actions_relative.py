import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e0_lightning.actions.relative import RelativeActions


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
