"""Projected noise and the plain form are equal in mean, covariance and mean gradient."""

import pytest
import torch

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.projected_noise import corrupt_projected

PROCESS = OneHotDiffusion(num_bins=12, alpha=0.7)
PROCESSES = {
    "one-hots": PROCESS,
    "filtered one-hots": OneHotDiffusion(12, 0.7, matched_filter=True),
    "filtered narrow codes": OneHotDiffusion(12, 0.7, code_sigma=0.5, matched_filter=True),
    "filtered wide codes": OneHotDiffusion(64, 0.7, code_sigma=10.0, matched_filter=True),
}
TOKENS, TAU = torch.tensor([3, 9]), torch.tensor([0.4])
SAMPLES = 60_000


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


@pytest.fixture
def weight(process):
    return torch.randn(5, 2 * process.num_bins, generator=seeded(0))


def sample_both(process, weight):
    """Samples of one step of two tokens: ``(SAMPLES, 5)`` projected, and plain."""
    tokens, tau = TOKENS.expand(SAMPLES, 1, 2), TAU.expand(SAMPLES)
    projected = corrupt_projected(process, weight, tokens, tau, seeded(1))[:, 0]
    x_tau = process.corrupt(tokens[:, 0], tau, seeded(2))
    return projected, process.network_input(x_tau, tau).flatten(1) @ weight.T


def exact_moments(process, weight):
    """Mean and covariance of both, in closed form: the layer's input is linear in ``x_τ``."""
    linear = process.network_input(torch.eye(process.num_bins)[None], TAU)[0]
    layer = (weight.view(5, 2, -1) @ linear.T).flatten(1)
    mean = 0.4 * 0.7 * layer @ process.encode(TOKENS).flatten()
    return mean, 0.36 * layer @ layer.T


def test_means_are_equal(process, weight):
    mean, covariance = exact_moments(process, weight)
    # Five standard errors of a mean.
    bound = 5 * covariance.diagonal().sqrt() / SAMPLES**0.5
    for samples in sample_both(process, weight):
        assert ((samples.mean(dim=0) - mean).abs() < bound).all()


def test_covariances_are_equal(process, weight):
    _, exact = exact_moments(process, weight)
    scale = exact.diagonal().outer(exact.diagonal())
    # Five standard errors of a covariance, √(c_ii c_jj + c_ij²) / √n.
    bound = 5 * (scale + exact**2).sqrt() / SAMPLES**0.5
    for samples in sample_both(process, weight):
        assert ((samples.T.cov() - exact).abs() < bound).all()


def test_gradients_of_the_mean_loss_are_equal(process, weight):
    weight.requires_grad_()
    mean, covariance = exact_moments(process, weight)
    (exact,) = torch.autograd.grad((mean - 0.5).square().sum() + covariance.trace(), weight)
    for samples in sample_both(process, weight):
        loss = (samples - 0.5).square().sum(dim=-1).mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        assert ((gradient - exact).abs() < 0.03 * exact.abs().max()).all()


def test_wide_codes_have_a_basis_of_few_dimensions():
    process = PROCESSES["filtered wide codes"]
    codes, basis = process.codes(torch.device("cpu")), process.code_basis(torch.device("cpu"))
    torch.testing.assert_close(basis @ basis.T, codes @ codes.T, rtol=0, atol=1e-6)
    assert basis.shape == (64, 15)


def test_codes_of_a_validation_serve_the_training_after_it():
    process = OneHotDiffusion(12, code_sigma=2.0, matched_filter=True)
    tokens, tau = torch.zeros(2, 3, 2, dtype=torch.long), torch.rand(2)
    weight = torch.randn(5, 24, requires_grad=True)
    with torch.inference_mode():
        corrupt_projected(process, weight, tokens, tau)
    corrupt_projected(process, weight, tokens, tau).sum().backward()
    assert weight.grad.isfinite().all()


def test_clean_tokens_are_columns_of_the_layer():
    weight = torch.randn(5, 24, generator=seeded(0))
    tokens = torch.randint(0, 12, (4, 3, 2), generator=seeded(3))
    valid = torch.tensor([True, False]).expand(4, 3, 2)
    x = corrupt_projected(PROCESS, weight, tokens, torch.ones(4), valid=valid)
    torch.testing.assert_close(x, 0.7 * weight.T[tokens[..., 0]])


@pytest.mark.parametrize("matched_filter", [False, True])
def test_clean_codes_are_weighted_columns_of_the_layer(matched_filter):
    process = OneHotDiffusion(12, alpha=0.7, code_sigma=1.0, matched_filter=matched_filter)
    tokens, clean = torch.randint(0, 12, (4, 3, 2), generator=seeded(3)), torch.ones(4)
    weight = torch.randn(5, 24, generator=seeded(0))
    x = corrupt_projected(process, weight, tokens, clean)
    plain = process.network_input(process.corrupt(tokens.flatten(1), clean), clean)
    torch.testing.assert_close(x, plain.view(4, 3, 24) @ weight.T)


def test_equal_seeds_give_equal_noise(process, weight):
    tokens, tau = torch.zeros(2, 3, 2, dtype=torch.long), torch.rand(2)
    first, second = (corrupt_projected(process, weight, tokens, tau, seeded(7)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("shape", "message"), [((5, 20), "expected 24 inputs .*, got 20"), ((24, 24), "got 24 outputs")]
)
def test_a_weight_that_does_not_fit_is_refused(shape, message):
    tokens = torch.zeros(1, 1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        corrupt_projected(PROCESS, torch.randn(shape), tokens, torch.zeros(1))
