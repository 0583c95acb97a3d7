import copy

import pytest
import torch
from jsonargparse import ArgumentParser

from e0_lightning.actions.tokenizer import ActionTokenizer
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.schedules import BetaTau, IdentifiabilityTau


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_corrupted_tokens_have_the_mean_and_deviation_of_the_equation():
    process = OneHotDiffusion(num_bins=6, alpha=0.5)
    tokens = torch.tensor([2, 5]).expand(40_000, 2)
    x = process.corrupt(tokens, torch.full((40_000,), 0.4), seeded())
    mean = 0.4 * 0.5 * torch.nn.functional.one_hot(tokens[0], 6)
    assert torch.allclose(x.mean(dim=0), mean, atol=5 * 0.6 / 200)
    assert torch.allclose(x.std(dim=0), torch.full((2, 6), 0.6), atol=0.01)


def test_tau_1_is_clean_and_tau_0_is_the_prior():
    process = OneHotDiffusion(num_bins=6, alpha=0.5)
    tokens = torch.tensor([[2, 5], [2, 5]])
    x = process.corrupt(tokens, torch.tensor([1.0, 0.0]), seeded())
    assert x[0].equal(0.5 * torch.nn.functional.one_hot(tokens[0], 6))
    assert x[1].equal(process.prior((2, 2), seeded())[1])


def test_equal_seeds_give_equal_noise():
    process, tokens, tau = OneHotDiffusion(8), torch.zeros(2, 3, dtype=torch.long), torch.rand(2)
    first, second = (process.corrupt(tokens, tau, seeded(7)) for _ in range(2))
    assert first.equal(second)


def test_score_is_the_gradient_of_the_log_density():
    process = OneHotDiffusion(num_bins=5, alpha=0.7)
    prior = torch.rand(3, 5, generator=seeded()).softmax(dim=-1)
    tau = torch.tensor([0.0, 0.3, 0.6, 0.9])
    level = tau[:, None, None]
    x = process.corrupt(torch.randint(0, 5, (4, 3), generator=seeded()), tau, seeded(1))
    x.requires_grad_()
    signal = 0.7 * level[..., None] * torch.eye(5)
    distance = (x[..., None, :] - signal).square().sum(dim=-1)
    density = (prior.log() - distance / (2 * (1 - level) ** 2)).logsumexp(dim=-1)
    (expected,) = torch.autograd.grad(density.sum(), x)
    ratio = (level * 0.7 * x - (level * 0.7) ** 2 / 2) / (1 - level) ** 2
    score = process.score(x, prior.log() + ratio, tau)
    assert torch.allclose(score, expected, rtol=1e-4, atol=1e-4)


def test_codes_are_gaussians_of_unit_norm():
    process = OneHotDiffusion(num_bins=20, alpha=0.5, code_sigma=2.0)
    codes = process.encode(torch.arange(20))
    assert torch.allclose(codes.norm(dim=-1), torch.ones(20))
    assert codes.argmax(dim=-1).equal(torch.arange(20))
    assert torch.allclose(codes[10, 12] / codes[10, 10], torch.tensor(-0.5).exp())
    clean = process.corrupt(torch.tensor([[3]]), torch.ones(1))
    assert torch.allclose(clean, 0.5 * codes[3])


def test_score_of_codes_is_the_gradient_of_the_log_density():
    process = OneHotDiffusion(num_bins=9, alpha=2.0, code_sigma=1.5)
    prior = torch.rand(3, 9, generator=seeded()).softmax(dim=-1)
    tau = torch.tensor([0.0, 0.3, 0.6, 0.9])
    level = tau[:, None, None]
    x = process.corrupt(torch.randint(0, 9, (4, 3), generator=seeded()), tau, seeded(1))
    x.requires_grad_()
    signal = 2.0 * level[..., None] * process.encode(torch.arange(9))
    distance = (x[..., None, :] - signal).square().sum(dim=-1)
    joint = prior.log() - distance / (2 * (1 - level) ** 2)
    (expected,) = torch.autograd.grad(joint.logsumexp(dim=-1).sum(), x)
    assert torch.allclose(process.score(x, joint, tau), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("code_sigma", [0.0, 1.5])
def test_the_matched_filter_keeps_the_posterior(code_sigma):
    process = OneHotDiffusion(8, alpha=0.7, code_sigma=code_sigma, matched_filter=True)
    tokens, tau = torch.tensor([[3, 5, 0]]), torch.tensor([0.6])
    x_tau = process.corrupt(tokens, tau, seeded())
    means = tau * process.alpha * process.encode(torch.arange(8))
    likelihood = -(x_tau[..., None, :] - means).square().sum(-1) / (2 * (1 - tau) ** 2)
    # The filter's output is proportional to the inner products with the codes.
    filtered = process.network_input(x_tau, tau)
    scale = (process.encode(torch.arange(8)) @ x_tau[0, 0])[3] / filtered[0, 0, 3]
    evidence = tau * process.alpha * scale * filtered / (1 - tau) ** 2
    torch.testing.assert_close(evidence.softmax(-1), likelihood.softmax(-1))


@pytest.mark.parametrize("code_sigma", [0.0, 40.0])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9, 0.99])
def test_the_matched_filters_output_has_norm_1_at_every_tau(code_sigma, tau):
    process = OneHotDiffusion(256, 0.1, code_sigma=code_sigma, matched_filter=True)
    tokens = torch.arange(256).repeat(8, 1)
    level = torch.full((8,), tau)
    filtered = process.network_input(process.corrupt(tokens, level, seeded()), level)
    assert filtered.square().sum(-1).mean().item() == pytest.approx(1, rel=0.15)


def test_mean_and_noise_add_up_to_the_input():
    process = OneHotDiffusion(num_bins=7, alpha=0.2)
    x, logits, tau = torch.randn(3, 2, 7), torch.randn(3, 2, 7), torch.rand(3)
    mean = process.mean(logits)
    level = tau[:, None, None]
    assert torch.allclose(mean.sum(dim=-1), torch.full((3, 2), 0.2))
    assert torch.allclose(level * mean + (1 - level) * process.noise(x, mean, tau), x, atol=1e-5)


def test_loss_is_the_cross_entropy():
    logits, tokens = torch.randn(4, 3, 9), torch.randint(0, 9, (4, 3))
    loss = OneHotDiffusion(9).loss(logits, tokens, torch.ones(4, 3, dtype=torch.bool))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert torch.allclose(loss, expected)


@pytest.mark.parametrize("target_sigma", [0.5, 3.0])
def test_gaussian_targets_spread_over_neighboring_bins(target_sigma):
    logits, tokens = torch.randn(1, 4, 30), torch.tensor([[0, 1, 15, 29]])
    distance = torch.arange(30) - tokens[..., None]
    target = (-0.5 * (distance / target_sigma) ** 2).softmax(dim=-1)
    loss = OneHotDiffusion(30, target_sigma=target_sigma).loss(logits, tokens, tokens >= 0)
    expected = -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    assert torch.allclose(loss, expected, atol=1e-3)


def test_gaussian_targets_are_centered_on_the_value():
    tokenizer, process = ActionTokenizer(64), OneHotDiffusion(64, target_sigma=3.0)
    values = torch.tensor([[-0.41, 0.0, 0.123, 0.5]])
    logits = torch.zeros(1, 4, 64, requires_grad=True)
    tokens = tokenizer.encode(values)
    process.loss(logits, tokens, tokens >= 0, tokenizer.offset(values)).backward()
    target = 1 / 64 - 4 * logits.grad  # the gradient is the mean over tokens of p - target
    means = target @ tokenizer.decode(torch.arange(64))
    torch.testing.assert_close(means, values, atol=1e-3, rtol=0)


def test_one_hot_targets_have_no_offset():
    logits, tokens = torch.randn(2, 3, 8), torch.randint(0, 8, (2, 3))
    valid, offset = torch.ones(2, 3, dtype=torch.bool), torch.full((2, 3), 0.4)
    process = OneHotDiffusion(8)
    assert process.loss(logits, tokens, valid, offset).equal(process.loss(logits, tokens, valid))


@pytest.mark.parametrize("target_sigma", [0.0, 2.0])
def test_invalid_tokens_change_neither_loss_nor_gradient(target_sigma):
    process = OneHotDiffusion(12, target_sigma=target_sigma)
    logits, tokens = torch.randn(2, 5, 12, requires_grad=True), torch.randint(0, 12, (2, 5))
    valid = torch.tensor([[True, True, False, True, False], [False, True, True, True, True]])
    offset = torch.full((2, 5), 0.3)
    loss = process.loss(logits, tokens, valid, offset)
    (gradient,) = torch.autograd.grad(loss, logits)
    others = torch.where(valid[..., None], logits.detach(), 100 * torch.randn(2, 5, 12))
    others.requires_grad_()
    offset[~valid] = torch.nan
    changed = process.loss(others, tokens.where(valid, torch.tensor(-100)), valid, offset)
    assert changed.equal(loss)
    assert torch.autograd.grad(changed, others)[0].equal(gradient)
    assert (gradient[~valid] == 0).all()
    assert (gradient[valid] != 0).all()


def test_without_valid_tokens_loss_and_gradient_are_zero():
    logits = torch.randn(2, 3, 8, requires_grad=True)
    valid = torch.zeros(2, 3, dtype=torch.bool)
    loss = OneHotDiffusion(8).loss(logits, torch.zeros(2, 3, dtype=torch.long), valid)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("code_sigma", [0.0, 2.0])
def test_half_precision_logits_are_processed_in_float32(code_sigma):
    process = OneHotDiffusion(64, code_sigma=code_sigma)
    logits, tokens = torch.randn(2, 3, 64).bfloat16(), torch.randint(0, 64, (2, 3))
    valid = torch.ones(2, 3, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        loss, mean = process.loss(logits, tokens, valid), process.mean(logits)
    assert loss.equal(process.loss(logits.float(), tokens, valid))
    assert mean.equal(process.mean(logits.float()))


def test_a_configuration_builds_it_with_its_tau_distribution():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(OneHotDiffusion, "process")
    tau_distribution = {"class_path": "e0_lightning.diffusion.schedules.IdentifiabilityTau"}
    settings = {"num_bins": 64, "alpha": 0.3, "tau_distribution": tau_distribution}
    path = "e0_lightning.diffusion.one_hot.OneHotDiffusion"
    parsed = parser.parse_object({"process": {"class_path": path, "init_args": settings}})
    process = copy.deepcopy(parser.instantiate_classes(parsed).process)
    assert (process.num_bins, process.alpha) == (64, 0.3)
    assert isinstance(process.tau_distribution, IdentifiabilityTau)
    assert process.tau_distribution.alpha == 0.3
    assert isinstance(OneHotDiffusion().tau_distribution, BetaTau)


@pytest.mark.parametrize(
    "arguments", [{"num_bins": 1}, {"alpha": 0.0}, {"target_sigma": -1.0}, {"code_sigma": -1.0}]
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        OneHotDiffusion(**arguments)


def test_the_prior_of_a_subclass_is_the_noise_of_the_whole_process():
    class ShiftedNoise(OneHotDiffusion):
        def prior(self, shape, generator=None, device=None):
            return 5 + super().prior(shape, generator, device)

    process, tokens = ShiftedNoise(8), torch.zeros(50, 4, dtype=torch.long)
    assert process.corrupt(tokens, torch.zeros(50), seeded()).mean().item() == pytest.approx(
        5, abs=0.2
    )


@pytest.mark.parametrize("method", ["prior", "corrupt", "network_input"])
def test_projected_noise_of_a_subclass_with_another_noise_is_refused(method):
    other = type("OtherNoise", (OneHotDiffusion,), {method: lambda self, *args: None})
    with pytest.raises(ValueError, match=f"projected: .* OtherNoise, which overrides `{method}`"):
        other(projected=True)
    assert type("SameNoise", (OneHotDiffusion,), {})(projected=True).projected


def test_rows_with_their_own_generators_do_not_depend_on_the_batch():
    process, tau = OneHotDiffusion(8), torch.tensor([0.2, 0.7])
    tokens = torch.tensor([[1, 2], [3, 4]])
    both = process.corrupt(tokens, tau, [seeded(1), seeded(2)])
    assert both[1:].equal(process.corrupt(tokens[1:], tau[1:], [seeded(2)]))


def test_filtered_codes_are_sampled_after_the_layer_unless_their_noise_is_another():
    filtered = {"num_bins": 8, "code_sigma": 2.0, "matched_filter": True}
    other = type("OtherNoise", (OneHotDiffusion,), {"prior": lambda self, *args: None})
    assert OneHotDiffusion(**filtered).samples_projected
    assert not other(**filtered).samples_projected
    assert not OneHotDiffusion(8, code_sigma=2.0).samples_projected
    assert not OneHotDiffusion(8, matched_filter=True).samples_projected
