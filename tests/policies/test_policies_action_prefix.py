"""Action prefixes of real-time chunking, and the uncertainty of sampled actions."""

import pytest
import torch

from e0_lightning.actions.action_prefix import read_action_prefix
from tiny_policy import ACTIONS, DIM, HORIZON, STATE, ready_policy, tiny_settings

RELATIVE = ACTIONS | {
    "model_dim": 5,
    "relative": {"actions": [0, 1], "state": {"qpos": [3, 4]}},
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


def prefixes(*lengths):
    """Action prefixes of these lengths; the last number of each is an outlier."""
    generator = torch.Generator().manual_seed(4)
    actions = [torch.rand(length, DIM, generator=generator) for length in lengths]
    for prefix in actions:
        prefix[-1:, -1:] = 100.0
    return actions


def sample_actions(policy, batch, **changes):
    return policy.sample_actions({**batch, "noise_seed": [1, 2, 3, 4], **changes})


def test_a_prefix_is_returned_to_the_bit_and_other_rows_are_unchanged(policy, batch):
    given = prefixes(2, 0, HORIZON - 1, 0)
    actions = sample_actions(policy, batch, action_prefix=given).actions
    for chunk, prefix in zip(actions, given, strict=True):
        assert torch.equal(chunk[: len(prefix)], prefix)
    assert torch.equal(actions[[1, 3]], sample_actions(policy, batch).actions[[1, 3]])
    assert actions.isfinite().all()


def test_empty_prefixes_change_nothing(policy, batch):
    expected = sample_actions(policy, batch).actions
    empty = sample_actions(policy, batch, action_prefix=prefixes(0, 0, 0, 0)).actions
    assert torch.equal(empty, expected)


def test_uncertainty_is_zero_in_the_prefix_and_positive_after_it(policy, batch):
    given = prefixes(2, 0, HORIZON - 1, 0)
    uncertainty = sample_actions(policy, batch, action_prefix=given).uncertainty
    if type(policy).__name__ in ("FlowMatching", "MaskedDiffusion"):
        assert uncertainty is None
        return
    assert uncertainty.shape == (4, HORIZON)
    assert (uncertainty <= 1 + 1e-6).all()
    for row, prefix in zip(uncertainty, given, strict=True):
        assert (row[: len(prefix)] == 0).all()
        assert (row[len(prefix) :] > 0).all()


def test_a_prefix_is_relative_to_the_new_state(batch):
    space = ready_policy(POLICIES["E0"]).actions
    prefix = read_action_prefix({**batch, "action_prefix": prefixes(2, 0, 3, 1)}, space)
    whole = space.normalize(prefix.actions, batch["state"])
    assert torch.equal(prefix.normalized[2, :3, :DIM], whole[2, :3, :DIM])
    assert prefix.normalized[..., DIM:].isnan().all()
    assert prefix.normalized[1].isnan().all()


def test_the_tokens_of_a_prefix_are_inputs_of_every_step(batch):
    policy = ready_policy(POLICIES["E0"])
    inputs, denoise = [], policy.denoise
    policy.denoise = lambda x, *rest: inputs.append(x) or denoise(x, *rest)
    given = prefixes(2, 0, 0, 0)
    policy.act({**batch, "action_prefix": given})
    prefix = read_action_prefix({**batch, "action_prefix": given}, policy.actions)
    tokens = prefix.tokens(policy.tokenizer)
    in_prefix = tokens >= 0
    assert in_prefix[0].view(HORIZON, -1).sum(dim=1).tolist() == [DIM, DIM, 0, 0]
    assert tokens[0].max() == policy.process.num_bins - 1
    assert len(inputs) == policy.sampler.num_steps
    for x_tau in inputs:
        assert x_tau.argmax(dim=-1)[in_prefix].equal(tokens[in_prefix])


@pytest.mark.parametrize(
    ("action_prefix", "message"),
    [
        (prefixes(HORIZON, 0, 0, 0), rf"0 to {HORIZON - 1}, got shape \({HORIZON}, {DIM}\)"),
        ([torch.zeros(1, 2), *prefixes(0, 0, 0)], rf"expected \(n, {DIM}\).*got shape \(1, 2\)"),
        ([torch.full((1, DIM), torch.nan), *prefixes(0, 0, 0)], "finite numbers"),
        (prefixes(1, 1), "got 2"),
    ],
    ids=["too long", "dimensions", "NaN", "batch"],
)
def test_an_invalid_prefix_is_refused(batch, action_prefix, message):
    policy = ready_policy(POLICIES["E0"])
    with pytest.raises(ValueError, match=f"action_prefix.*{message}"):
        policy.act({**batch, "action_prefix": action_prefix})


def test_normalized_entropy_is_0_for_certain_and_1_for_uniform_tokens():
    space = ready_policy(POLICIES["E0"]).actions
    logits = torch.zeros(STATE, HORIZON * 5, 32)
    logits[:, :5, 3] = 1e4
    entropy = space.normalized_entropy(logits)
    assert entropy[:, 0].eq(0).all()
    torch.testing.assert_close(entropy[:, 1:], torch.ones(STATE, HORIZON - 1))
