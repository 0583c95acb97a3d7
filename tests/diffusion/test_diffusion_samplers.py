"""Samplers with exact posteriors in place of a network, which isolates the error of the rule."""

import copy

import pytest
import torch

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import (
    ArgmaxSampler,
    CategoricalSampler,
    ReleasedSampler,
    TweedieSampler,
)
from e0_lightning.diffusion.schedules import IdentifiabilitySchedule, UniformSchedule

SAMPLERS = [TweedieSampler, ArgmaxSampler, CategoricalSampler, ReleasedSampler]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def independent_posterior(prior, process):
    """``log p(k | x)`` for independent tokens with ``prior (L, K)``."""

    def denoise(x, tau):
        level = process.alpha * tau[:, None, None]
        return prior.log() + (level * x - level**2 / 2) / (1 - tau[:, None, None]) ** 2

    return denoise


class TwoModes:
    """``log p(k | x)`` for chunks that are one of two, the first with probability 0.7.

    One tensor of logits is reused, as only the bins of the two chunks change.
    """

    def __init__(self, process, batch, length=16):
        low = torch.randint(0, process.num_bins // 2, (length,), generator=seeded(1))
        self.modes = torch.stack([low, low + process.num_bins // 2])
        self.bins = self.modes.T.expand(batch, length, 2)
        self.logits = torch.full((batch, length, process.num_bins), -torch.inf)
        self.alpha = process.alpha

    def __call__(self, x, tau):
        evidence = x.gather(-1, self.bins).sum(dim=1) * (tau * self.alpha / (1 - tau) ** 2)[:, None]
        chunk = (torch.tensor([0.7, 0.3]).log() + evidence).log_softmax(dim=-1)
        return self.logits.scatter_(-1, self.bins, chunk[:, None].expand_as(self.bins))


def sample_two_modes(sampler, count, batch=50, transform=lambda x, tau: (x, tau)):
    """Fractions of chunks that are all of one mode, and all of the first.

    ``transform`` maps the sampler's ``x`` and ``tau`` to the inputs of the posterior.
    """
    process = OneHotDiffusion(2048, alpha=0.1)
    posterior, generator = TwoModes(process, batch), seeded()
    counts = torch.zeros(2)
    for _ in range(count // batch):
        tokens, _ = sampler(
            lambda x, tau: posterior(*transform(x, tau)), process, (batch, 16), generator
        )
        counts += (tokens[:, None] == posterior.modes).all(dim=-1).sum(dim=0)
    return counts.sum().item() / count, counts[0].item() / count


@pytest.mark.parametrize("schedule", [UniformSchedule(), IdentifiabilitySchedule()])
def test_tweedie_keeps_chunks_consistent_and_modes_in_proportion(schedule):
    consistent, first = sample_two_modes(
        TweedieSampler(num_steps=10, schedule=schedule), count=3000
    )
    assert consistent >= 0.99
    assert first == pytest.approx(0.70, abs=0.03)


def test_fewer_steps_oversample_the_larger_mode():
    def first(num_steps):
        return sample_two_modes(TweedieSampler(num_steps), count=1000)[1]

    assert first(1) == 1
    assert 0.74 < first(4) < 0.84
    assert first(10) < first(4) - 0.02


def test_argmax_drifts_to_the_larger_mode():
    consistent, first = sample_two_modes(ArgmaxSampler(num_steps=10), count=1000)
    assert consistent >= 0.99
    assert first > 0.78


def test_released_rule_drifts_to_the_larger_mode_given_its_true_noise_level():
    # α e + ε is twice a sample of the process at τ = 1/2.
    def true_level(x, tau):
        return x / 2, torch.full_like(tau, 0.5)

    consistent, first = sample_two_modes(
        ReleasedSampler(num_steps=10), count=1000, transform=true_level
    )
    assert consistent >= 0.99
    assert first == pytest.approx(0.96, abs=0.02)


def test_released_rule_ends_in_either_mode_given_the_schedules_noise_level():
    consistent, first = sample_two_modes(ReleasedSampler(num_steps=10), count=1000)
    assert consistent >= 0.99
    assert first == pytest.approx(0.5, abs=0.06)


def test_released_rule_feeds_back_its_own_alpha():
    process = OneHotDiffusion(num_bins=8, alpha=1.0)
    logits, tau = torch.eye(8)[None], torch.zeros(1)
    steps = [
        ReleasedSampler(alpha=alpha).step(process, logits, logits, tau, tau, seeded())
        for alpha in (None, 0.1)
    ]
    torch.testing.assert_close(steps[0] - steps[1], 0.9 * torch.eye(8)[None])


def test_released_rule_decays_its_noise_on_request():
    process = OneHotDiffusion(num_bins=8, alpha=1.0)
    logits, tau = torch.eye(8)[None], torch.zeros(1)
    sampler = ReleasedSampler(alpha=0.1, decay_noise=True)
    noise, half, clean = (
        sampler.step(process, logits, logits, tau, torch.tensor([next_tau]), seeded())
        for next_tau in (0.0, 0.75, 1.0)
    )
    torch.testing.assert_close(clean, 0.1 * torch.eye(8)[None])
    torch.testing.assert_close(half, (noise + clean) / 2)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_categorical_reproduces_the_prior(alpha):
    process = OneHotDiffusion(num_bins=8, alpha=alpha)
    prior = torch.randn(3, 8, generator=seeded(2)).softmax(dim=-1)
    denoise = independent_posterior(prior, process)
    tokens, _ = CategoricalSampler(num_steps=10)(denoise, process, (20_000, 3), seeded())
    counts = torch.nn.functional.one_hot(tokens, 8).sum(dim=0)
    statistic = ((counts - 20_000 * prior) ** 2 / (20_000 * prior)).sum()
    # 99.9 % of a chi-square with 3 · 7 degrees of freedom.
    assert statistic < 46.8


def test_categorical_reproduces_the_prior_of_codes():
    process = OneHotDiffusion(num_bins=8, alpha=1.0, code_sigma=1.0)
    prior = torch.randn(3, 8, generator=seeded(2)).softmax(dim=-1)
    codes = process.encode(torch.arange(8))

    def denoise(x, tau):
        level = tau[:, None, None]
        # All codes have the same norm.
        return prior.log() + level * (x @ codes.T) / (1 - level) ** 2

    tokens, _ = CategoricalSampler(num_steps=10)(denoise, process, (20_000, 3), seeded())
    counts = torch.nn.functional.one_hot(tokens, 8).sum(dim=0)
    statistic = ((counts - 20_000 * prior) ** 2 / (20_000 * prior)).sum()
    # 99.9 % of a chi-square with 3 · 7 degrees of freedom.
    assert statistic < 46.8


def test_categorical_at_low_temperature_is_the_argmax():
    process = OneHotDiffusion(num_bins=8, alpha=1.0)
    logits = torch.randn(50, 3, 8)
    sampler = CategoricalSampler(num_steps=1, temperature=1e-4)
    tokens, _ = sampler(lambda x, tau: logits, process, (50, 3), seeded())
    assert tokens.equal(logits.argmax(dim=-1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_returns_tokens_of_a_certain_posterior(sampler):
    process = OneHotDiffusion(num_bins=32)
    target = torch.randint(0, 32, (1, 6), generator=seeded())
    certain = torch.full((5, 6, 32), -30.0).scatter(-1, target.expand(5, 6)[..., None], 30.0)
    tokens, logits = sampler()(lambda x, tau: certain, process, (5, 6), seeded())
    assert tokens.equal(target.expand(5, 6))
    assert logits.equal(certain)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_returns_valid_tokens_and_logits(sampler):
    process = OneHotDiffusion(num_bins=16, alpha=1.0)
    tokens, logits = sampler(num_steps=4)(lambda x, tau: x, process, (7, 3), seeded())
    assert tokens.shape == (7, 3)
    assert tokens.dtype == torch.int64
    assert tokens.min() >= 0
    assert tokens.max() < 16
    assert logits.shape == (7, 3, 16)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_seeds_give_equal_samples(sampler):
    process, sampler = OneHotDiffusion(num_bins=16, alpha=1.0), sampler(num_steps=4)
    first = sampler(lambda x, tau: x, process, (7, 3), seeded(5))
    second = copy.deepcopy(sampler)(lambda x, tau: x, process, (7, 3), seeded(5))
    assert first[0].equal(second[0])
    assert first[1].equal(second[1])


@pytest.mark.parametrize("sampler", [*SAMPLERS, lambda **steps: TweedieSampler(eta=0.5, **steps)])
def test_rows_with_their_own_generators_do_not_depend_on_the_batch(sampler):
    process = OneHotDiffusion(num_bins=16, alpha=1.0)

    def sample(*seeds):
        generators = [seeded(seed) for seed in seeds]
        return sampler(num_steps=4)(lambda x, tau: x, process, (len(seeds), 3), generators)

    together = sample(1, 2, 3)
    for row, seed in enumerate((1, 2, 3)):
        for batched, alone in zip(together, sample(seed), strict=True):
            assert batched[row : row + 1].equal(alone)
    assert not together[1][0].equal(together[1][1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_starts_from_the_prior_of_the_process(sampler):
    inputs = []

    class Zeros(OneHotDiffusion):
        def prior(self, shape, generator=None, device=None):
            return torch.zeros(*shape, self.num_bins)

    sampler(num_steps=2)(lambda x, tau: inputs.append(x) or x, Zeros(8), (2, 3))
    assert inputs[0].equal(torch.zeros(2, 3, 8))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_denoiser_is_called_at_the_levels_of_the_schedule(sampler):
    taus = []

    def denoise(x, tau):
        taus.append(tau)
        return x

    sampler(num_steps=5)(denoise, OneHotDiffusion(8), (2, 3), seeded())
    assert torch.stack(taus).equal(UniformSchedule()(5)[:, None].expand(5, 2))


def test_tweedie_without_fresh_noise_is_a_probability_flow():
    process = OneHotDiffusion(num_bins=8, alpha=0.5)
    x, logits = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    tau, next_tau = torch.full((2,), 0.4), torch.full((2,), 0.401)
    step = TweedieSampler().step(process, x, logits, tau, next_tau, None)
    # dx/dτ = α p − ε̂ along x = τ α p + (1 − τ) ε̂
    mean = process.mean(logits)
    flow = mean - process.noise(x, mean, tau)
    assert torch.allclose((step - x) / 0.001, flow, atol=1e-3)


def test_fresh_noise_keeps_the_noise_level():
    process = OneHotDiffusion(num_bins=500)
    tau, next_tau = torch.full((20,), 0.2), torch.full((20,), 0.5)
    x, logits = process.corrupt(torch.zeros(20, 4).long(), tau, seeded()), torch.zeros(20, 4, 500)
    logits[..., 0] = 100.0
    step = TweedieSampler(eta=0.6).step(process, x, logits, tau, next_tau, seeded(1))
    noise = process.noise(step, process.mean(logits), next_tau)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ArgmaxSampler(num_steps=0), r"num_steps: expected 1 or more, got 0"),
        (lambda: ArgmaxSampler(readout="mode"), "readout: expected .*, got 'mode'"),
        (lambda: TweedieSampler(eta=1.5), "eta: expected .*, got 1.5"),
        (lambda: CategoricalSampler(temperature=0.0), "temperature: expected .*, got 0.0"),
    ],
)
def test_invalid_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
