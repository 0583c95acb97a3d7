"""Projected noise and the plain form are equal in mean, covariance and mean gradient."""

import pytest
import torch

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.projected_noise import corrupt_projected

PROCESS = OneHotDiffusion(num_bins=12, alpha=0.7)
SAMPLES = 60_000


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def weight():
    return torch.randn(5, 24, generator=seeded(0))


@pytest.fixture
def samples(weight):
    """Samples of one step of two tokens: ``(SAMPLES, 5)`` projected, and plain."""
    tokens = torch.tensor([[[3, 9]]]).expand(SAMPLES, 1, 2)
    tau = torch.full((SAMPLES,), 0.4)
    projected = corrupt_projected(PROCESS, weight, tokens, tau, seeded(1))[:, 0]
    plain = PROCESS.corrupt(tokens[:, 0], tau, seeded(2)).flatten(1) @ weight.T
    return projected, plain


def test_means_are_equal(samples, weight):
    projected, plain = samples
    exact = 0.4 * 0.7 * (weight[:, 3] + weight[:, 12 + 9])
    # Five standard errors of a mean.
    bound = 5 * 0.6 * weight.square().sum(dim=1).sqrt() / SAMPLES**0.5
    assert ((projected.mean(dim=0) - exact).abs() < bound).all()
    assert ((plain.mean(dim=0) - exact).abs() < bound).all()


def test_covariances_are_equal(samples, weight):
    projected, plain = samples
    exact = 0.36 * weight @ weight.T
    scale = exact.diagonal().outer(exact.diagonal()).sqrt()
    # Five standard errors of a covariance, √(c_ii c_jj + c_ij²) / √n.
    bound = 5 * (scale**2 + exact**2).sqrt() / SAMPLES**0.5
    assert ((projected.T.cov() - exact).abs() < bound).all()
    assert ((plain.T.cov() - exact).abs() < bound).all()


def test_gradients_of_the_mean_loss_are_equal(weight):
    tokens = torch.tensor([[[3, 9]]]).expand(SAMPLES, 1, 2)
    tau = torch.full((SAMPLES,), 0.4)

    def gradient(project):
        matrix = weight.clone().requires_grad_()
        loss = (project(matrix) - 0.5).square().sum(dim=-1).mean()
        return torch.autograd.grad(loss, matrix)[0]

    projected = gradient(lambda w: corrupt_projected(PROCESS, w, tokens, tau, seeded(1))[:, 0])
    plain = gradient(lambda w: PROCESS.corrupt(tokens[:, 0], tau, seeded(2)).flatten(1) @ w.T)
    torch.testing.assert_close(projected, plain, rtol=0.05, atol=0.08)


def test_clean_tokens_are_columns_of_the_layer(weight):
    tokens = torch.randint(0, 12, (4, 3, 2), generator=seeded(3))
    valid = torch.tensor([True, False]).expand(4, 3, 2)
    x = corrupt_projected(PROCESS, weight, tokens, torch.ones(4), valid=valid)
    torch.testing.assert_close(x, 0.7 * weight.T[tokens[..., 0]])


def test_clean_codes_are_weighted_columns_of_the_layer(weight):
    process = OneHotDiffusion(num_bins=12, alpha=0.7, code_sigma=1.0)
    tokens = torch.randint(0, 12, (4, 3, 2), generator=seeded(3))
    x = corrupt_projected(process, weight, tokens, torch.ones(4))
    plain = process.corrupt(tokens.flatten(1), torch.ones(4)).view(4, 3, 24)
    torch.testing.assert_close(x, plain @ weight.T)


def test_equal_seeds_give_equal_noise(weight):
    tokens, tau = torch.zeros(2, 3, 2, dtype=torch.long), torch.rand(2)
    first, second = (corrupt_projected(PROCESS, weight, tokens, tau, seeded(7)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("shape", "message"), [((5, 20), "expected 24 inputs .*, got 20"), ((24, 24), "got 24 outputs")]
)
def test_a_weight_that_does_not_fit_is_refused(shape, message):
    tokens = torch.zeros(1, 1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        corrupt_projected(PROCESS, torch.randn(shape), tokens, torch.zeros(1))
