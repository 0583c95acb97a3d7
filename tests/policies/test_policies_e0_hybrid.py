import pytest
import torch

from tiny_policy import ready_policy, seeded_step, tiny_settings


@pytest.fixture
def policy():
    sampler = {"class_path": "ArgmaxSampler", "init_args": {"num_steps": 3}}
    return ready_policy(tiny_settings("E0Hybrid", process={"num_bins": 32}, sampler=sampler))


def flow_end(policy, prefix, shape):
    """End of the flow alone, from the noise that a sample starts with."""
    with seeded_step(policy):
        *_, end = policy.flow.integrate(
            lambda x, tau: policy._flow(x, tau, prefix)[0],
            shape,
            policy.sampler.taus(policy.process),
            policy.generator,
        )
    return end


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


def test_sampling_interleaves_one_flow_pass_with_one_token_pass_per_step(policy, batch):
    passes, extend = [], policy.expert.extend
    policy.expert.extend = lambda tokens, *rest: (
        passes.append(tokens.shape[1]) or extend(tokens, *rest)
    )
    policy.act(batch)
    assert passes == [policy.actions.horizon, policy.num_tokens] * policy.sampler.num_steps


def test_interleaved_passes_equal_a_flow_that_is_integrated_before_the_tokens(policy, batch):
    prefix = policy.encode(batch)
    with seeded_step(policy):
        sampled = policy.sample(prefix)
    with seeded_step(policy), torch.no_grad():
        shape = sampled.actions.shape
        states = iter(
            [
                *policy.flow.integrate(
                    lambda x, tau: policy._flow(x, tau, prefix)[0],
                    shape,
                    policy.sampler.taus(policy.process),
                    policy.generator,
                )
            ]
        )
        tokens, _ = policy.sampler(
            lambda x, tau: policy._denoise(x, tau, policy._flow(next(states), tau, prefix)[1]),
            policy.process,
            (4, policy.num_tokens),
            policy.generator,
        )
    expected = (next(states) + policy.tokenizer.decode(tokens).view(shape)) / 2
    torch.testing.assert_close(sampled.actions, expected, rtol=0, atol=1e-6)
