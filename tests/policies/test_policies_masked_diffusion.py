import torch

from tiny_policy import ACTIONS, ready_policy, tiny_settings


def masked(**changes):
    return ready_policy(tiny_settings("MaskedDiffusion", process={"num_bins": 32}, **changes))


def test_actions_are_bin_centers(batch):
    policy = masked()
    values = policy.sample(policy.encode(batch)).actions
    assert torch.equal(policy.tokenizer.decode(policy.tokenizer.encode(values)), values)


def test_padded_dimensions_stay_masked(batch):
    policy = masked(actions=ACTIONS | {"model_dim": 5})
    prefix = policy.encode(batch)
    tokens = torch.randint(0, 32, (4, policy.num_tokens))
    changed = tokens.view(4, -1, 5).clone()
    changed[..., 3:] = 7
    logits = policy.predict(tokens, prefix)
    assert torch.equal(logits, policy.predict(changed.flatten(1), prefix))


def test_unmasked_tokens_change_the_prediction_of_masked_ones(batch):
    policy = masked()
    prefix = policy.encode(batch)
    all_masked = torch.full((4, policy.num_tokens), policy.process.mask)
    one_unmasked = all_masked.clone()
    one_unmasked[:, 0] = 3
    difference = policy.predict(one_unmasked, prefix) - policy.predict(all_masked, prefix)
    assert difference[:, -1].abs().max() > 1e-5
