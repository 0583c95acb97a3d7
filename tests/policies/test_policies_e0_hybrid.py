import pytest
import torch

from tiny_policy import ready_policy, seeded_step, tiny_settings


@pytest.fixture
def policy():
    sampler = {"class_path": "ArgmaxSampler", "init_args": {"num_steps": 3}}
    return ready_policy(tiny_settings("E0Hybrid", process={"num_bins": 32}, sampler=sampler))


def flow_end(policy, prefix, shape):
    """End of the flow alone, from the noise that a sample starts with."""
    taus = policy.sampler.schedule(policy.sampler.num_steps)
    with seeded_step(policy):
        states = policy.flow.integrate(
            lambda x, tau: policy._flow(x, tau, prefix)[0], shape, taus, policy.generator
        )
    return states[-1]


def test_the_chunk_is_the_mean_of_the_flow_and_of_bin_centers(policy, batch):
    prefix = policy.encode(batch)
    with seeded_step(policy):
        chunk = policy.sample(prefix).actions
    values = 2 * chunk - flow_end(policy, prefix, chunk.shape)
    centers = policy.tokenizer.decode(policy.tokenizer.encode(values))
    torch.testing.assert_close(values, centers, rtol=0, atol=1e-5)


def test_tokens_attend_to_the_flow(policy, batch):
    prefix, tau = policy.encode(batch), torch.full((4,), 0.5)
    x_tau = torch.randn(4, policy.num_tokens, 32)
    chunks = torch.randn(2, 4, policy.actions.horizon, policy.actions.width)
    first, second = (policy._denoise(x_tau, tau, policy._flow(c, tau, prefix)[1]) for c in chunks)
    assert (first - second).abs().max() > 1e-5


def test_each_loss_is_weighted_by_a_half(policy, batch):
    prefix = policy.encode(batch)
    with torch.no_grad():
        for projection in (policy.flow_projection, policy.token_projection):
            projection.head.weight.zero_()
            projection.head.bias.zero_()
    losses = policy.losses({"actions": batch["actions"], "valid": batch["valid"]}, prefix)
    # All 32 bins have the same probability.
    assert losses["cross_entropy"].item() == pytest.approx(0.5 * torch.tensor(32.0).log().item())
    assert set(losses) == {"velocity", "cross_entropy"}
