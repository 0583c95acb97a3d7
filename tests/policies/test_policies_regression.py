import pytest
import torch

from tiny_policy import ready_policy, tiny_settings


@pytest.fixture
def policy():
    return ready_policy(tiny_settings("Regression"))


def test_actions_take_one_pass_and_no_random_draw(policy, batch):
    calls = []
    policy.expert.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(policy.act(batch), policy.act(batch))
    assert len(calls) == 2


def test_the_loss_is_the_absolute_error_of_valid_steps(policy, batch):
    prefix = policy.encode(batch)
    valid = batch["valid"].clone()
    valid[:, 3:] = False
    actions = policy.sample(prefix).actions.detach() + 0.25
    actions[:, 3:] = 100.0
    losses = policy.losses({"actions": actions, "valid": valid}, prefix)
    assert losses["absolute_error"].item() == pytest.approx(0.25, rel=1e-4)


def test_an_action_prefix_is_refused(policy, batch):
    assert policy.sample_actions(batch).uncertainty is None
    prefix = [torch.zeros(2, 3), *[torch.zeros(0, 3)] * 3]
    with pytest.raises(ValueError, match=r"action_prefix: expected none, .*Regression cannot"):
        policy.act({**batch, "action_prefix": prefix})
