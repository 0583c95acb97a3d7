"""Self-conditioning: an earlier estimate, seen beside the noise."""

import torch

from .conftest import ready_policy, tiny_settings


def both(**changes):
    return (ready_policy(tiny_settings(**changes, self_conditioning=on)) for on in (False, True))


def test_at_first_an_estimate_changes_nothing(batch):
    plain, conditioned = both()
    for act in (plain.act, conditioned.act):
        torch.manual_seed(2)
        act.__self__.chunk = act(batch)
    assert torch.equal(plain.chunk, conditioned.chunk)
    assert "estimate.weight" in conditioned.state_dict()
    assert "estimate.weight" not in plain.state_dict()


def test_once_learnt_each_step_sees_what_the_last_one_said(batch):
    _, policy = both(sampler={"init_args": {"num_steps": 3}, "class_path": "TweedieSampler"})
    torch.nn.init.normal_(policy.estimate.weight)
    given, said, denoise = [], [], policy.denoise

    def spied(x_tau, tau, prefix, estimate):
        given.append(estimate)
        said.append(denoise(x_tau, tau, prefix, estimate))
        return said[-1]

    policy.denoise = spied
    policy.act(batch)
    assert given[0] is None
    assert given[1:] == said[:2]
    x_tau, tau, prefix = torch.randn(4, 12, 32), torch.full((4,), 0.5), policy.prefix(batch)
    assert not torch.equal(denoise(x_tau, tau, prefix), denoise(x_tau, tau, prefix, said[0]))


def test_half_of_the_samples_see_what_a_first_pass_says_and_it_gets_no_gradient(batch):
    _, policy = both()
    passes, seen = [], []
    policy.expert.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    policy.estimate.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    for seed in range(20):
        torch.manual_seed(seed)
        policy._losses(batch)
    assert passes == [False, True] * 20
    assert not any(first.any() for first in seen[::2])
    rows = torch.cat(seen[1::2]).flatten(1).any(dim=1)
    assert 25 <= rows.sum() <= 55
