import math

import pytest
import torch

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import TweedieSampler
from e0_lightning.diffusion.schedules import (
    BetaTau,
    IdentifiabilitySchedule,
    IdentifiabilityTau,
    UniformSchedule,
    UniformTau,
)

DISTRIBUTIONS = [BetaTau(), UniformTau(), IdentifiabilityTau(2048, 0.1)]


@pytest.mark.parametrize("schedule", [UniformSchedule(), IdentifiabilitySchedule(2048, 0.1)])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 100])
def test_schedules_increase_from_zero_and_stay_below_one(schedule, num_steps):
    taus = schedule(num_steps)
    assert taus.shape == (num_steps,)
    assert taus[0] == 0
    assert (taus.diff() > 0).all()
    assert taus[-1] < 1


def test_uniform_steps_are_even():
    assert torch.allclose(UniformSchedule()(10), torch.arange(10) / 10)


@pytest.mark.parametrize(("num_bins", "alpha"), [(2048, 0.1), (256, 1.0)])
def test_identifiability_steps_are_even_in_log_signal_to_noise(num_bins, alpha):
    taus = IdentifiabilitySchedule(num_bins, alpha)(10)[1:].double()
    ratio = (taus * alpha / (1 - taus)) ** 2
    assert ratio[0].item() == pytest.approx(0.02, rel=1e-4)
    assert ratio[-1].item() == pytest.approx(8 * math.log(num_bins), rel=1e-4)
    assert torch.allclose(ratio.log().diff(), ratio.log().diff()[:1], rtol=1e-3)


def test_two_identifiability_steps_end_at_the_cleanest_level():
    schedule = IdentifiabilitySchedule(2048, 0.1)
    assert schedule(2)[1] == schedule(10)[-1] == schedule(3)[-1]
    assert schedule(2)[1] > 0.98


def test_identifiable_noise_levels_are_those_of_the_process():
    process = OneHotDiffusion(64, alpha=0.3, tau_distribution=IdentifiabilityTau())
    sampler = TweedieSampler(schedule=IdentifiabilitySchedule())
    assert sampler.taus(process).equal(IdentifiabilitySchedule(64, 0.3)(10))
    tau, expected = (
        each.sample(100, torch.Generator().manual_seed(0))
        for each in (process.tau_distribution, IdentifiabilityTau(64, 0.3))
    )
    assert tau.equal(expected)


def test_noise_levels_that_are_given_are_kept():
    process = OneHotDiffusion(64, alpha=0.3)
    sampler = TweedieSampler(schedule=IdentifiabilitySchedule(2048, 0.1))
    assert sampler.taus(process).equal(IdentifiabilitySchedule(2048, 0.1)(10))


def test_identifiable_noise_levels_without_a_process_are_refused():
    with pytest.raises(ValueError, match="expected num_bins and alpha, got None and None"):
        IdentifiabilitySchedule()(10)


@pytest.mark.parametrize("a", [1.0, 1.5, 4.0])
def test_beta_tau_has_the_moments_of_a_beta(a):
    tau = BetaTau(a).sample(200_000, torch.Generator().manual_seed(0)).double()
    beta = (1 - tau - 0.001) / 0.999
    variance = a / ((a + 1) ** 2 * (a + 2))
    assert beta.mean().item() == pytest.approx(a / (a + 1), abs=4 * (variance / 200_000) ** 0.5)
    assert beta.var().item() == pytest.approx(variance, rel=0.02)


def test_identifiability_tau_is_uniform_in_log_signal_to_noise_apart_from_pure_noise():
    tau_distribution = IdentifiabilityTau(2048, 0.1, pure_noise=0.25)
    tau = tau_distribution.sample(100_000, torch.Generator().manual_seed(0)).double()
    noise = tau == 0
    assert noise.double().mean().item() == pytest.approx(0.25, abs=0.01)
    position = (tau[~noise] * 0.1 / (1 - tau[~noise])).square().log()
    low, high = math.log(0.02), math.log(8 * math.log(2048))
    quartiles = position.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    expected = low + (high - low) * torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    assert torch.allclose(quartiles, expected, atol=0.05)


@pytest.mark.parametrize("tau_distribution", DISTRIBUTIONS)
def test_equal_seeds_give_equal_taus_below_one(tau_distribution):
    first, second = (
        tau_distribution.sample(10_000, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert first.equal(second)
    assert first.min() >= 0
    assert first.max() < 1


@pytest.mark.parametrize("build", [lambda: BetaTau(0.0), lambda: IdentifiabilityTau(pure_noise=2)])
def test_invalid_distributions_are_refused(build):
    with pytest.raises(ValueError, match=r"a: expected .* got 0.0|pure_noise: expected .* got 2"):
        build()


@pytest.mark.parametrize("tau_distribution", DISTRIBUTIONS)
def test_rows_with_their_own_generators_do_not_depend_on_the_batch(tau_distribution):
    def sample(*seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return tau_distribution.sample(len(seeds), generators)

    assert sample(1, 2, 3)[1:].equal(sample(2, 3))
