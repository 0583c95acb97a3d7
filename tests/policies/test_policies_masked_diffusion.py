import torch

from .conftest import ready_policy, tiny_settings


def masked(**changes):
    return ready_policy(tiny_settings("MaskedDiffusion", process={"num_bins": 32}, **changes))


def test_actions_lie_on_the_grid(batch):
    policy = masked()
    values = policy.sample(policy.prefix(batch))
    assert torch.equal(policy.tokenizer.decode(policy.tokenizer.encode(values)), values)


def test_padded_dimensions_stay_hidden(batch):
    actions = tiny_settings()["init_args"]["actions"] | {"model_dim": 5}
    policy = masked(actions=actions)
    prefix = policy.prefix(batch)
    tokens = torch.randint(0, 32, (4, policy.tokens))
    changed = tokens.view(4, -1, 5).clone()
    changed[..., 3:] = 7
    logits = policy.predict(tokens, prefix)
    assert torch.equal(logits, policy.predict(changed.flatten(1), prefix))


def test_known_tokens_tell_of_hidden_ones(batch):
    policy = masked()
    prefix = policy.prefix(batch)
    hidden = torch.full((4, policy.tokens), policy.process.mask)
    known = hidden.clone()
    known[:, 0] = 3
    difference = policy.predict(known, prefix) - policy.predict(hidden, prefix)
    assert difference[:, -1].abs().max() > 1e-5
