import pytest
import torch

from tiny_policy import act_seeded, ready_policy, tiny_settings


@pytest.fixture
def policy():
    return ready_policy(tiny_settings("Autoregressive", num_bins=32))


def logits_of(policy, tokens, prefix):
    """All logits in one causal pass, each given the true tokens before it."""
    start = torch.full((len(tokens), 1), policy.start_token)
    inputs = torch.cat([start, tokens[:, :-1]], dim=1)
    refined = policy.expert(policy.projection.embed(inputs), prefix, causal=True)
    return policy.projection.project_out(refined)


def test_cached_decoding_equals_one_causal_pass(policy, batch):
    prefix = policy.encode(batch)
    decoded = policy.tokenizer.encode(policy.sample(prefix).actions).flatten(1)
    assert torch.equal(decoded, logits_of(policy, decoded, prefix).argmax(dim=-1))


def test_a_token_depends_only_on_those_before_it(policy, batch):
    prefix, tokens = policy.encode(batch), torch.randint(0, 32, (4, policy.num_tokens))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 32
    before, after = (logits_of(policy, x, prefix) for x in (tokens, changed))
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6] - after[:, 6]).abs().max() > 1e-5


def test_greedy_decoding_ignores_the_seed_and_a_temperature_does_not(policy, batch):
    assert torch.equal(act_seeded(policy, batch, 0), act_seeded(policy, batch, 9))
    policy.temperature = 1.0
    assert not torch.equal(act_seeded(policy, batch, 0), act_seeded(policy, batch, 9))
