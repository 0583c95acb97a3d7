import pytest
import torch

from .conftest import ready_policy, tiny_settings


@pytest.fixture
def policy():
    return ready_policy(
        tiny_settings(
            "E0Hybrid",
            process={"num_bins": 32},
            sampler={"class_path": "ArgmaxSampler", "init_args": {"num_steps": 3}},
        )
    )


def flow_end(policy, prefix, shape):
    """Where the flow alone ends, under the noise that a sample draws first."""
    torch.manual_seed(4)
    levels = policy.sampler.schedule(policy.sampler.num_steps)
    states = policy.flow.integrate(lambda x, tau: policy._flow(x, tau, prefix)[0], shape, levels)
    return states[-1]


def test_the_chunk_is_the_mean_of_the_flow_and_of_tokens_on_the_grid(policy, batch):
    prefix = policy.prefix(batch)
    torch.manual_seed(4)
    chunk = policy.sample(prefix)
    values = 2 * chunk - flow_end(policy, prefix, chunk.shape)
    on_grid = policy.tokenizer.decode(policy.tokenizer.encode(values))
    torch.testing.assert_close(values, on_grid, rtol=0, atol=1e-5)


def test_tokens_see_the_flow_at_every_level(policy, batch):
    prefix, tau = policy.prefix(batch), torch.full((4,), 0.5)
    x_tau = torch.randn(4, policy.tokens, 32)
    chunks = torch.randn(2, 4, policy.actions.horizon, policy.actions.width)
    first, second = (policy._denoise(x_tau, tau, policy._flow(c, tau, prefix)[1]) for c in chunks)
    assert (first - second).abs().max() > 1e-5


def test_both_halves_of_the_loss_are_halves(policy, batch):
    prefix = policy.prefix(batch)
    with torch.no_grad():
        for port in (policy.flow_projection, policy.token_projection):
            port.head.weight.zero_()
            port.head.bias.zero_()
    losses = policy.losses(batch, prefix)
    # Without an answer, every bin is as likely as another.
    assert losses["cross_entropy"].item() == pytest.approx(0.5 * torch.tensor(32.0).log().item())
    assert set(losses) == {"velocity", "cross_entropy"}
