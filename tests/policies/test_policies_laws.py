"""Laws that every policy keeps."""

import pytest
import torch

from e0_lightning.actions.statistics import RunningQuantiles
from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.types import Batch

from .conftest import CONTRACT, DIM, HORIZON, make_batch, tiny_settings

POLICIES = {
    "E0": tiny_settings(),
    "E0, a token per step": tiny_settings(token_per="step"),
    "E0, argmax": tiny_settings(sampler={"class_path": "ArgmaxSampler"}),
    "E0, wider than the robot": tiny_settings(
        actions=tiny_settings()["init_args"]["actions"] | {"model_dim": 5}
    ),
}


@pytest.fixture(params=POLICIES)
def policy(request):
    torch.manual_seed(0)
    policy = build_policy(POLICIES[request.param])
    policy._agree(CONTRACT)
    data = make_batch()
    policy.actions.fit([(data["actions"], data["state"], data["valid"])])
    policy.state_normalizer.fit_statistics(
        RunningQuantiles(data["state"].shape[1]).update(data["state"])
    )
    return policy.eval()


def fit(policy, batch, steps):
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum(policy._losses(batch).values()).backward()
        optimizer.step()


def test_four_windows_are_learnt_by_heart(policy, batch):
    fit(policy, batch, 150)
    error = (policy.act(batch) - batch["actions"]).abs().mean()
    assert error < 0.05  # a bin of 32 over [-1, 1] is 0.0625 wide


def test_same_seed_same_actions(policy, batch):
    first, second = (torch.manual_seed(7) and policy.act(batch) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (4, HORIZON, DIM)


def test_masked_steps_change_nothing(policy, batch):
    def losses(actions):
        torch.manual_seed(3)
        return sum(policy._losses(Batch({**batch, "actions": actions, "valid": valid})).values())

    valid = batch["valid"].clone()
    valid[:, 2:] = False
    changed = batch["actions"].clone()
    changed[:, 2:] = 0.3
    torch.testing.assert_close(losses(batch["actions"]), losses(changed), rtol=1e-4, atol=1e-5)


def test_prefix_does_not_depend_on_actions_or_noise(policy, batch):
    other = make_batch(seed=1)
    first = policy.prefix(batch)
    second = policy.prefix(Batch({**batch, "actions": other["actions"]}))
    assert all(torch.equal(a, b) for a, b in zip(first.keys, second.keys, strict=True))


def test_a_batch_of_two_is_two_batches_of_one(policy, batch):
    def prefix(part):
        return policy.prefix(part)

    pair = {**batch, "images": {"base": batch["images"]["base"][:2]}}
    pair |= {"instruction": batch["instruction"][:2], "state": batch["state"][:2]}
    single = {"images": {"base": batch["images"]["base"][1:2]}}
    single |= {"instruction": batch["instruction"][1:2], "state": batch["state"][1:2]}
    both, alone = prefix(pair), prefix(single)
    x_tau = torch.randn(2, policy.tokens, policy.process.num_bins)
    tau = torch.tensor([0.3, 0.6])
    together = policy.denoise(x_tau, tau, both)[1:]
    apart = policy.denoise(x_tau[1:], tau[1:], alone)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


def test_checkpoint_alone_rebuilds_the_policy(policy, batch, tmp_path):
    path = tmp_path / "policy.ckpt"
    checkpoint = {"state_dict": policy.state_dict(), "hyper_parameters": dict(policy.hparams)}
    policy.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    loaded = load_policy(path)
    torch.manual_seed(1)
    expected = policy.act(batch)
    torch.manual_seed(1)
    assert torch.equal(loaded.act(batch), expected)
    assert loaded.contract == CONTRACT
