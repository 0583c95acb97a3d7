import pytest
import torch

from e0_lightning.types import Batch

from .conftest import ready_policy, tiny_settings


@pytest.fixture
def policy():
    return ready_policy(tiny_settings("Regression"))


def test_one_pass_and_no_draw(policy, batch, monkeypatch):
    calls = []
    policy.expert.register_forward_hook(lambda *_: calls.append(1))
    actions = [torch.manual_seed(seed) and policy.act(batch) for seed in range(2)]
    assert torch.equal(*actions)
    assert len(calls) == 2


def test_loss_is_the_absolute_error_of_valid_steps(policy, batch):
    prefix = policy.prefix(batch)
    valid = batch["valid"].clone()
    valid[:, 3:] = False
    actions = policy.sample(prefix).detach() + 0.25
    actions[:, 3:] = 100.0
    losses = policy.losses(Batch({**batch, "actions": actions, "valid": valid}), prefix)
    assert losses["absolute_error"].item() == pytest.approx(0.25, rel=1e-4)
