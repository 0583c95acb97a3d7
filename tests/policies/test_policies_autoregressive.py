import pytest
import torch

from .conftest import ready_policy, tiny_settings


@pytest.fixture
def policy():
    return ready_policy(tiny_settings("Autoregressive", num_bins=32))


def logits_of(policy, tokens, prefix):
    """All logits in one causal pass, each given the true tokens before it."""
    before = torch.cat([torch.full((len(tokens), 1), policy.blank), tokens[:, :-1]], dim=1)
    tau = torch.zeros(len(tokens))
    refined = policy.expert(policy.projection.embed(before), tau, prefix, causal=True)
    return policy.projection.project_out(refined)


def test_cached_decoding_is_what_the_whole_pass_would_choose(policy, batch):
    prefix = policy.prefix(batch)
    decoded = policy.tokenizer.encode(policy.sample(prefix)).flatten(1)
    assert torch.equal(decoded, logits_of(policy, decoded, prefix).argmax(dim=-1))


def test_a_token_depends_on_those_before_it_only(policy, batch):
    prefix, tokens = policy.prefix(batch), torch.randint(0, 32, (4, policy.tokens))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 32
    before, after = (logits_of(policy, x, prefix) for x in (tokens, changed))
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6] - after[:, 6]).abs().max() > 1e-5


def test_greedy_decoding_draws_nothing_and_warm_decoding_does(policy, batch):
    greedy = [torch.manual_seed(seed) and policy.act(batch) for seed in range(2)]
    assert torch.equal(*greedy)
    policy.temperature = 1.0
    warm = [torch.manual_seed(seed) and policy.act(batch) for seed in range(2)]
    assert not torch.equal(*warm)
