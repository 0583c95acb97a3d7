"""What E0 may see beside the noise: an earlier estimate, and the steps that are under way."""

import pytest
import torch

from e0_lightning.policies.drawing import read_committed

from .conftest import DIM, HORIZON, make_batch, ready_policy, tiny_settings


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

    def spied(x_tau, tau, prefix, estimate, known):
        given.append(estimate)
        said.append(denoise(x_tau, tau, prefix, estimate, known))
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


def two_ways():
    """One observation and two chunks from it: all low, or all high."""
    batch = make_batch(size=1)
    batch = {name: value * 32 for name, value in batch.items() if name == "instruction"} | {
        "images": {"base": batch["images"]["base"].expand(32, -1, -1, -1)},
        "state": batch["state"].expand(32, -1),
        "valid": batch["valid"].expand(32, -1),
    }
    way = torch.where(torch.arange(32) % 2 == 0, -0.5, 0.5)
    return batch | {"actions": way[:, None, None].expand(32, HORIZON, DIM)}


@pytest.mark.parametrize("token_per", ["step", "dimension"])
def test_a_chunk_goes_on_as_its_committed_steps_began(token_per):
    policy = ready_policy(tiny_settings(committed=2, token_per=token_per))
    batch, optimizer = two_ways(), torch.optim.AdamW(policy.parameters(), lr=3e-3)
    policy.train()
    for _ in range(150):
        optimizer.zero_grad()
        sum(policy.losses(batch, policy.prefix(batch)).values()).backward()
        optimizer.step()
    policy.eval()
    given = {name: batch[name] for name in ("images", "instruction", "state")}
    for way in (-0.5, 0.5):
        begun = policy.actions.undo(torch.full((32, HORIZON, DIM), way), batch["state"])[:, :1]
        chunk = policy.act(given | {"committed": list(begun)})
        assert torch.equal(chunk[:, :1], begun)
        rest = policy.actions.normalise(chunk, batch["state"])[:, 1:]
        assert (rest.sign() == torch.tensor(way).sign()).float().mean() > 0.95


def test_padding_is_told_in_training_as_little_as_in_acting(batch):
    actions = tiny_settings()["init_args"]["actions"] | {"model_dim": 5}
    policy = ready_policy(tiny_settings(committed=HORIZON - 1, actions=actions))
    shown = policy._reveal(torch.ones(64, policy.tokens, dtype=torch.int64)).view(64, HORIZON, 5)
    committed = read_committed({**batch, "committed": [*batch["actions"][:, :2]]}, policy.actions)
    acted = committed.tokens(policy.tokenizer).view(-1, HORIZON, 5)
    for known in (shown, acted):
        assert (known[:, 0, :3] >= 0).any()
        assert (known[..., 3:] == -1).all()


def test_committed_steps_are_fewer_than_a_chunk_has():
    with pytest.raises(ValueError, match="committed is 4, the horizon 4"):
        ready_policy(tiny_settings(committed=HORIZON))
