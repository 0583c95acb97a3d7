import torch

from e0_lightning.diffusion.schedules import BetaTau

from .conftest import SPEC, ready_policy, tiny_settings


def test_tau_is_drawn_as_in_pi0():
    tau_distribution = ready_policy(tiny_settings("FlowMatching")).flow.tau_distribution
    assert isinstance(tau_distribution, BetaTau)
    # Beta(1.5, 1) has the mean 0.6, and 1 - τ is 0.999 of it plus 0.001.
    assert abs((1 - tau_distribution.sample(100_000)).mean() - 0.6) < 0.01


def test_euler_takes_as_many_calls_as_steps(batch, monkeypatch):
    policy = ready_policy(tiny_settings("FlowMatching", num_steps=4))
    seen = []
    velocity = policy.velocity
    monkeypatch.setattr(
        policy,
        "velocity",
        lambda x, tau, prefix: seen.append(tau[0].item()) or velocity(x, tau, prefix),
    )
    policy.act(batch)
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_padded_dimensions_are_not_seen(batch):
    actions = tiny_settings()["init_args"]["actions"] | {"model_dim": 5}
    policy = ready_policy(tiny_settings("FlowMatching", actions=actions))
    prefix, tau = policy.prefix(batch), torch.full((4,), 0.5)
    x_tau = torch.randn(4, SPEC.horizon, 5)
    changed = x_tau.clone()
    changed[..., 3:] += 1
    velocity = policy.velocity(x_tau, tau, prefix)
    assert torch.equal(velocity, policy.velocity(changed, tau, prefix))
