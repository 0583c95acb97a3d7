import torch

from e0_lightning.diffusion.schedules import BetaTau
from tiny_policy import ACTIONS, SPEC, ready_policy, tiny_settings


def test_tau_has_the_distribution_of_pi0():
    tau_distribution = ready_policy(tiny_settings("FlowMatching")).flow.tau_distribution
    assert isinstance(tau_distribution, BetaTau)
    # Beta(1.5, 1) has the mean 0.6, and 1 - τ is 0.999 of it plus 0.001.
    assert abs((1 - tau_distribution.sample(100_000)).mean() - 0.6) < 0.01


def test_euler_evaluates_the_velocity_once_per_step(batch, monkeypatch):
    policy = ready_policy(tiny_settings("FlowMatching", num_steps=4))
    taus, velocity = [], policy.velocity

    def record(x_tau, tau, prefix):
        taus.append(tau[0].item())
        return velocity(x_tau, tau, prefix)

    monkeypatch.setattr(policy, "velocity", record)
    policy.act(batch)
    assert taus == [0.0, 0.25, 0.5, 0.75]


def test_padded_dimensions_do_not_reach_the_network(batch):
    policy = ready_policy(tiny_settings("FlowMatching", actions=ACTIONS | {"model_dim": 5}))
    prefix, tau = policy.encode(batch), torch.full((4,), 0.5)
    x_tau = torch.randn(4, SPEC.horizon, 5)
    changed = x_tau.clone()
    changed[..., 3:] += 1
    velocity = policy.velocity(x_tau, tau, prefix)
    assert torch.equal(velocity, policy.velocity(changed, tau, prefix))
