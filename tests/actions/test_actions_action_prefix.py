import pytest
import torch

from e0_lightning.actions.action_prefix import read_action_prefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.types import PolicySpec

HORIZON, DIM = 4, 3


@pytest.fixture
def space():
    relative = RelativeActions([0, 1], {"qpos": [2, 0]}).resolve_state(
        PolicySpec(state={"qpos": 3})
    )
    space = ActionSpace(HORIZON, QuantileNormalizer(DIM), relative, model_dim=5)
    chunks = torch.randn(40, HORIZON, DIM), torch.randn(40, 3), torch.ones(40, HORIZON).bool()
    return space.fit([chunks])


def observation(*lengths):
    prefixes = [torch.randn(length, DIM) for length in lengths]
    return {"state": torch.randn(len(lengths), 3), "action_prefix": prefixes}


def test_prefixes_of_different_lengths_are_masked_and_normalized(space):
    observed = observation(2, 0, 3)
    prefix = read_action_prefix(observed, space)
    assert prefix.mask.sum(dim=1).tolist() == [2, 0, 3]
    for row, actions in enumerate(observed["action_prefix"]):
        assert prefix.actions[row, : len(actions)].equal(actions)
    expected = space.normalize(prefix.actions, observed["state"])
    assert prefix.normalized[2, :3, :DIM].equal(expected[2, :3, :DIM])
    assert prefix.normalized[~prefix.mask].isnan().all()
    assert prefix.normalized[..., DIM:].isnan().all()


def test_tokens_are_those_of_the_normalized_actions_and_minus_one_after_the_prefix(space):
    observed, tokenizer = observation(2, 0), ActionTokenizer(32)
    observed["action_prefix"][0][1, 2] = 1e6
    prefix = read_action_prefix(observed, space)
    tokens = prefix.tokens(tokenizer).view(2, HORIZON, 5)
    expected = tokenizer.encode(prefix.normalized[0, :2, :DIM])
    assert tokens[0, :2, :DIM].equal(expected)
    assert tokens[0, 1, 2] == 31
    assert tokens[0, :2, DIM:].eq(-1).all()
    assert tokens[0, 2:].eq(-1).all()
    assert tokens[1].eq(-1).all()


def test_missing_and_empty_prefixes_are_none(space):
    assert read_action_prefix(observation(0, 0), space) is None
    assert read_action_prefix({"state": torch.zeros(2, 3)}, space) is None


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        ([torch.zeros(HORIZON, DIM)], rf"n from 0 to {HORIZON - 1}, got shape \(4, 3\)"),
        ([torch.zeros(1, 2)], rf"expected \(n, {DIM}\) .* got shape \(1, 2\)"),
        ([torch.full((1, DIM), torch.nan)], "finite numbers"),
        ([torch.zeros(1, DIM)] * 2, "expected one prefix for each of 1 observations, got 2"),
    ],
    ids=["too long", "dimensions", "NaN", "batch"],
)
def test_prefixes_that_do_not_fit_are_refused(space, prefixes, message):
    with pytest.raises(ValueError, match=message):
        read_action_prefix({"state": torch.zeros(1, 3), "action_prefix": prefixes}, space)
