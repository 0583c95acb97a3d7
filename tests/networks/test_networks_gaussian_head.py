import pytest
import torch

from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.networks.gaussian_head import GaussianHead

BINS, WIDTH = 64, 8
CENTERS = (torch.arange(BINS) + 0.5) * 2 / BINS - 1


def head(mean, deviation, joined=1):
    """A head that predicts one Gaussian whatever its input, and no plain logits."""
    built = GaussianHead(WIDTH, BINS, joined)
    for parameter in built.parameters():
        torch.nn.init.zeros_(parameter)
    bias = torch.tensor([mean, -torch.log(torch.tensor(deviation))])
    built.gaussian.bias.data.copy_(bias.repeat_interleave(joined))
    return built


def probabilities(built, refined=None):
    refined = torch.randn(2, 3, WIDTH) if refined is None else refined
    return built(refined).unflatten(-1, (-1, BINS)).softmax(dim=-1)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.31, 0.1), (-1.2, 0.3)])
def test_its_distribution_is_a_gaussian_at_the_centers_of_the_bins(mean, deviation):
    expected = torch.distributions.Normal(mean, deviation).log_prob(CENTERS).softmax(dim=-1)
    found = probabilities(head(mean, deviation))
    torch.testing.assert_close(found, expected.expand_as(found))


def test_the_mean_moves_within_a_bin():
    built = head(0.1, 0.05)
    for mean in (0.1, 0.105, 0.11):
        built.gaussian.bias.data[0] = mean
        assert (probabilities(built) @ CENTERS).sub(mean).abs().max() < 1e-5


def test_its_distribution_is_no_narrower_than_a_bin():
    found = probabilities(head(0.0, 1e-9))
    assert found.isfinite().all()
    assert found.max() < 0.5


def test_each_token_of_an_input_has_a_gaussian_of_its_own():
    built = head(0.0, 0.1, joined=2)
    built.gaussian.bias.data[:2] = torch.tensor([-0.5, 0.5])
    means = probabilities(built) @ CENTERS
    torch.testing.assert_close(means, torch.tensor([-0.5, 0.5]).expand(2, 3, 2))


def test_plain_logits_are_added():
    built, refined = head(0.0, 1.0), torch.randn(2, 3, WIDTH)
    flat = built(refined)
    torch.nn.init.normal_(built.weight)
    torch.testing.assert_close(built(refined) - flat, refined @ built.weight.T)


def test_the_place_within_a_bin_survives_half_precision():
    built, refined = head(0.7031, 0.02), torch.randn(2, 3, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        assert (probabilities(built, refined.bfloat16()) @ CENTERS).sub(0.7031).abs().max() < 1e-4


def error_after(steps, built):
    """Error of the mean after training a head on values that are linear in its input."""
    generator = torch.Generator().manual_seed(0)
    tokenizer, process = ActionTokenizer(BINS), OneHotDiffusion(BINS, target_sigma=2.0)
    optimizer = torch.optim.Adam(built.parameters(), lr=1e-2)
    for step in range(steps + 1):
        refined = torch.randn(64, 1, WIDTH, generator=generator)
        values = 0.3 * refined[..., 0]
        logits, tokens = built(refined), tokenizer.encode(values)
        if step == steps:
            return (tokenizer.expect(logits) - values.clamp(-1, 1)).abs().mean()
        optimizer.zero_grad()
        process.loss(logits, tokens, tokens >= 0, tokenizer.offset(values)).backward()
        optimizer.step()


def test_it_learns_a_value_in_fewer_steps_than_plain_logits():
    torch.manual_seed(0)
    linear, gaussian = torch.nn.Linear(WIDTH, BINS), GaussianHead(WIDTH, BINS)
    assert error_after(400, gaussian) < 0.1 * error_after(400, linear)
