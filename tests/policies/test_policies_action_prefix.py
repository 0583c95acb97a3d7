"""Chunks that go on from action_prefix actions, and how sure a policy is of them."""

import pytest
import torch

from e0_lightning.actions.action_prefix import doubt, read_action_prefix
from e0_lightning.types import ActionSampler

from .conftest import DIM, HORIZON, STATE, ready_policy, tiny_settings

RELATIVE = tiny_settings()["init_args"]["actions"] | {
    "model_dim": 5,
    "relative": {"actions": [0, 1], "state": [3, 4]},
}
BINS = {"process": {"num_bins": 32}}
POLICIES = {
    "E0": tiny_settings(actions=RELATIVE),
    "E0, argmax": tiny_settings(sampler={"class_path": "ArgmaxSampler"}),
    "E0, self-conditioned": tiny_settings(token_per="step", self_conditioning=True),
    "E0Hybrid": tiny_settings("E0Hybrid", actions=RELATIVE, **BINS),
    "FlowMatching": tiny_settings("FlowMatching", actions=RELATIVE),
    "MaskedDiffusion": tiny_settings("MaskedDiffusion", **BINS),
    "Autoregressive": tiny_settings("Autoregressive", num_bins=32, actions=RELATIVE),
}


@pytest.fixture(scope="module", params=POLICIES)
def policy(request):
    return ready_policy(POLICIES[request.param])


def tails(*lengths):
    """ActionPrefix actions of these lengths; the last number of each lies far out of range."""
    generator = torch.Generator().manual_seed(4)
    drawn = [torch.rand(length, DIM, generator=generator) for length in lengths]
    for tail in drawn:
        tail[-1:, -1:] = 100.0
    return drawn


def sample_actions(policy, batch, **observed):
    torch.manual_seed(7)
    return policy.sample_actions({**batch, **observed})


def test_committed_actions_come_back_to_the_bit_and_others_of_the_batch_are_as_ever(policy, batch):
    action_prefix = tails(2, 0, HORIZON - 1, 0)
    actions = sample_actions(policy, batch, action_prefix=action_prefix).actions
    for chunk, tail in zip(actions, action_prefix, strict=True):
        assert torch.equal(chunk[: len(tail)], tail)
    torch.testing.assert_close(actions[[1, 3]], sample_actions(policy, batch).actions[[1, 3]])
    assert actions.isfinite().all()


def test_no_tail_and_empty_tails_change_nothing(policy, batch):
    assert torch.equal(
        sample_actions(policy, batch).actions,
        sample_actions(policy, batch, action_prefix=tails(0, 0, 0, 0)).actions,
    )
    assert isinstance(policy, ActionSampler)
    torch.manual_seed(7)
    assert torch.equal(policy.act(batch), sample_actions(policy, batch).actions)


def test_uncertainty_is_a_share_and_none_of_it_is_of_what_is_committed(policy, batch):
    action_prefix = tails(2, 0, HORIZON - 1, 0)
    uncertainty = sample_actions(policy, batch, action_prefix=action_prefix).uncertainty
    if type(policy).__name__ in ("FlowMatching", "MaskedDiffusion"):
        assert uncertainty is None
        return
    assert uncertainty.shape == (4, HORIZON)
    assert (uncertainty <= 1 + 1e-6).all()
    for shares, tail in zip(uncertainty, action_prefix, strict=True):
        assert (shares[: len(tail)] == 0).all()
        assert (shares[len(tail) :] > 0).all()


def test_committed_actions_are_seen_relative_to_the_new_state(batch):
    space = ready_policy(POLICIES["E0"]).actions
    found = read_action_prefix({**batch, "action_prefix": tails(2, 0, 3, 1)}, space)
    whole = space.normalize(found.actions, batch["state"])
    assert torch.equal(found.chunk[2, :3, :DIM], whole[2, :3, :DIM])
    assert found.chunk[..., DIM:].isnan().all()
    assert found.chunk[1].isnan().all()


def test_the_network_is_told_what_is_committed(batch):
    policy = ready_policy(POLICIES["E0"])
    seen = []
    denoise = policy.denoise
    policy.denoise = lambda x, *rest: seen.append(x) or denoise(x, *rest)
    action_prefix = tails(2, 0, 0, 0)
    sample_actions(policy, batch, action_prefix=action_prefix)
    found = read_action_prefix({**batch, "action_prefix": action_prefix}, policy.actions)
    tokens = found.tokens(policy.tokenizer)
    known = tokens >= 0
    assert known[0].view(HORIZON, -1).sum(dim=1).tolist() == [DIM, DIM, 0, 0]
    assert tokens[0].max() == policy.process.num_bins - 1
    for x_tau in seen:
        assert x_tau.argmax(dim=-1)[known].equal(tokens[known])


def test_a_policy_that_cannot_go_on_says_so(batch):
    policy = ready_policy(tiny_settings("Regression"))
    assert sample_actions(policy, batch).uncertainty is None
    with pytest.raises(ValueError, match=r"action_prefix: found 2 .*Regression cannot continue"):
        sample_actions(policy, batch, action_prefix=tails(2, 0, 1, 0))


@pytest.mark.parametrize(
    ("action_prefix", "message"),
    [
        (tails(HORIZON, 0, 0, 0), rf"found shape \({HORIZON}, {DIM}\), .*0 to {HORIZON - 1}"),
        ([torch.zeros(1, 2), *tails(0, 0, 0)], rf"found shape \(1, 2\), wanted \(n, {DIM}\)"),
        ([torch.full((1, DIM), torch.nan), *tails(0, 0, 0)], "finite numbers"),
        (tails(1, 1), "found tails of 2 chunks, wanted one for each of 4"),
    ],
    ids=["too long", "dimensions", "NaN", "batch"],
)
def test_committed_actions_that_do_not_fit_are_named(batch, action_prefix, message):
    with pytest.raises(ValueError, match=f"action_prefix: .*{message}"):
        sample_actions(ready_policy(POLICIES["E0"]), batch, action_prefix=action_prefix)


def test_doubt_is_nothing_where_sure_and_all_where_even():
    space = ready_policy(POLICIES["E0"]).actions
    logits = torch.zeros(STATE, HORIZON * 5, 32)
    logits[:, :5, 3] = 1e4
    shares = doubt(logits, space)
    assert shares[:, 0].eq(0).all()
    torch.testing.assert_close(shares[:, 1:], torch.ones(STATE, HORIZON - 1))
