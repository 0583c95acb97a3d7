"""Samplers against exact posteriors: no network, so what is off is the rule's own doing."""

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

RULES = [TweedieSampler, ArgmaxSampler, CategoricalSampler, ReleasedSampler]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def independent_posterior(prior, process):
    """``log p(k | x)`` for tokens that are drawn from ``prior (L, K)``, each for itself."""

    def denoise(x, tau):
        level = process.alpha * tau[:, None, None]
        return prior.log() + (level * x - level**2 / 2) / (1 - tau[:, None, None]) ** 2

    return denoise


class TwoModes:
    """``log p(k | x)`` for chunks that are one of two, 0.7 of the first: tokens depend on another.

    One tensor of logits serves every call, as only the bins of the two chunks ever change.
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


def draw_two_modes(sampler, draws, batch=50, told=lambda x, tau: (x, tau)):
    """Shares of chunks that are all of one mode, and all of the first.

    ``told`` is what the posterior is asked about in place of the sampler's own ``x`` and ``tau``.
    """
    process = OneHotDiffusion(2048, alpha=0.1)
    posterior, generator = TwoModes(process, batch), seeded()
    counts = torch.zeros(2)
    for _ in range(draws // batch):
        drawn = sampler(lambda x, tau: posterior(*told(x, tau)), process, (batch, 16), generator)
        counts += (drawn.tokens[:, None] == posterior.modes).all(dim=-1).sum(dim=0)
    return counts.sum().item() / draws, counts[0].item() / draws


@pytest.mark.parametrize("schedule", [UniformSchedule(), IdentifiabilitySchedule()])
def test_tweedie_keeps_chunks_whole_and_modes_in_proportion(schedule):
    whole, share = draw_two_modes(TweedieSampler(num_steps=10, schedule=schedule), draws=3000)
    assert whole >= 0.99
    assert share == pytest.approx(0.70, abs=0.03)


def test_fewer_steps_draw_the_larger_mode_too_often():
    def share(num_steps):
        return draw_two_modes(TweedieSampler(num_steps), draws=1000)[1]

    assert share(1) == 1
    assert 0.74 < share(4) < 0.84
    assert share(10) < share(4) - 0.02


def test_argmax_drifts_to_the_larger_mode():
    whole, share = draw_two_modes(ArgmaxSampler(num_steps=10), draws=1000)
    assert whole >= 0.99
    assert share > 0.78


def test_released_rule_drifts_to_the_larger_mode_where_its_noise_is_known():
    # α e + ε is twice what the process draws at τ = 1/2.
    def truly(x, tau):
        return x / 2, torch.full_like(tau, 0.5)

    whole, share = draw_two_modes(ReleasedSampler(num_steps=10), draws=1000, told=truly)
    assert whole >= 0.99
    assert share == pytest.approx(0.96, abs=0.02)


def test_released_rule_throws_a_coin_where_the_noise_is_taken_for_the_schedules():
    whole, share = draw_two_modes(ReleasedSampler(num_steps=10), draws=1000)
    assert whole >= 0.99
    assert share == pytest.approx(0.5, abs=0.06)


def test_released_rule_may_feed_back_less_than_training_showed():
    process = OneHotDiffusion(num_bins=8, alpha=1.0)
    logits, tau = torch.eye(8)[None], torch.zeros(1)
    steps = [
        ReleasedSampler(alpha=alpha).step(process, logits, logits, tau, tau, seeded())
        for alpha in (None, 0.1)
    ]
    torch.testing.assert_close(steps[0] - steps[1], 0.9 * torch.eye(8)[None])


def test_released_rule_may_let_its_noise_decay():
    process = OneHotDiffusion(num_bins=8, alpha=1.0)
    logits, tau = torch.eye(8)[None], torch.zeros(1)
    sampler = ReleasedSampler(alpha=0.1, decay_noise=True)
    noise, half, clean = (
        sampler.step(process, logits, logits, tau, torch.tensor([level]), seeded())
        for level in (0.0, 0.75, 1.0)
    )
    torch.testing.assert_close(clean, 0.1 * torch.eye(8)[None])
    torch.testing.assert_close(half, (noise + clean) / 2)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_categorical_reproduces_the_prior(alpha):
    process = OneHotDiffusion(num_bins=8, alpha=alpha)
    prior = torch.randn(3, 8, generator=seeded(2)).softmax(dim=-1)
    denoise = independent_posterior(prior, process)
    sample = CategoricalSampler(num_steps=10)(denoise, process, (20_000, 3), seeded())
    counts = torch.nn.functional.one_hot(sample.tokens, 8).sum(dim=0)
    statistic = ((counts - 20_000 * prior) ** 2 / (20_000 * prior)).sum()
    # 99.9 % of a chi-square with 3 · 7 degrees of freedom.
    assert statistic < 46.8


def test_categorical_reproduces_the_prior_of_codes():
    process = OneHotDiffusion(num_bins=8, alpha=1.0, code_sigma=1.0)
    prior = torch.randn(3, 8, generator=seeded(2)).softmax(dim=-1)
    codes = process.encode(torch.arange(8))

    def denoise(x, tau):
        level = tau[:, None, None]
        # Codes are as long as one another.
        return prior.log() + level * (x @ codes.T) / (1 - level) ** 2

    sample = CategoricalSampler(num_steps=10)(denoise, process, (20_000, 3), seeded())
    counts = torch.nn.functional.one_hot(sample.tokens, 8).sum(dim=0)
    statistic = ((counts - 20_000 * prior) ** 2 / (20_000 * prior)).sum()
    # 99.9 % of a chi-square with 3 · 7 degrees of freedom.
    assert statistic < 46.8


def test_a_cold_categorical_is_the_argmax():
    process = OneHotDiffusion(num_bins=8, alpha=1.0)
    logits = torch.randn(50, 3, 8)
    cold = CategoricalSampler(num_steps=1, temperature=1e-4)
    tokens = cold(lambda x, tau: logits, process, (50, 3), seeded()).tokens
    assert tokens.equal(logits.argmax(dim=-1))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_returns_what_the_posterior_is_sure_of(rule):
    process = OneHotDiffusion(num_bins=32)
    target = torch.randint(0, 32, (1, 6), generator=seeded())
    sure = torch.full((5, 6, 32), -30.0).scatter(-1, target.expand(5, 6)[..., None], 30.0)
    sample = rule()(lambda x, tau: sure, process, (5, 6), seeded())
    assert sample.tokens.equal(target.expand(5, 6))
    assert sample.logits.equal(sure)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_returns_tokens_on_the_grid(rule):
    process = OneHotDiffusion(num_bins=16, alpha=1.0)
    tokens, logits = rule(num_steps=4)(lambda x, tau: x, process, (7, 3), seeded())
    assert tokens.shape == (7, 3)
    assert tokens.dtype == torch.int64
    assert tokens.min() >= 0
    assert tokens.max() < 16
    assert logits.shape == (7, 3, 16)


@pytest.mark.parametrize("rule", RULES)
def test_a_generator_decides_everything(rule):
    process, sampler = OneHotDiffusion(num_bins=16, alpha=1.0), rule(num_steps=4)
    first = sampler(lambda x, tau: x, process, (7, 3), seeded(5))
    second = copy.deepcopy(sampler)(lambda x, tau: x, process, (7, 3), seeded(5))
    assert first.tokens.equal(second.tokens)
    assert first.logits.equal(second.logits)


@pytest.mark.parametrize("rule", RULES)
def test_the_denoiser_sees_the_levels_of_the_schedule(rule):
    seen = []

    def denoise(x, tau):
        seen.append(tau)
        return x

    rule(num_steps=5)(denoise, OneHotDiffusion(8), (2, 3), seeded())
    assert torch.stack(seen).equal(UniformSchedule()(5)[:, None].expand(5, 2))


def test_tweedie_without_fresh_noise_is_a_probability_flow():
    process = OneHotDiffusion(num_bins=8, alpha=0.5)
    x, logits = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    tau, following = torch.full((2,), 0.4), torch.full((2,), 0.401)
    step = TweedieSampler().step(process, x, logits, tau, following, None)
    # dx/dτ = α p − ε̂ along x = τ α p + (1 − τ) ε̂
    mean = process.mean(logits)
    flow = mean - process.noise(x, mean, tau)
    assert torch.allclose((step - x) / 0.001, flow, atol=1e-3)


def test_fresh_noise_keeps_the_noise_at_its_level():
    process = OneHotDiffusion(num_bins=500)
    tau, following = torch.full((20,), 0.2), torch.full((20,), 0.5)
    x, logits = process.corrupt(torch.zeros(20, 4).long(), tau, seeded()), torch.zeros(20, 4, 500)
    logits[..., 0] = 100.0
    step = TweedieSampler(eta=0.6).step(process, x, logits, tau, following, seeded(1))
    noise = process.noise(step, process.mean(logits), following)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ArgmaxSampler(num_steps=0), "num_steps is 0"),
        (lambda: ArgmaxSampler(readout="mode"), "readout is 'mode'"),
        (lambda: TweedieSampler(eta=1.5), "eta is 1.5"),
        (lambda: CategoricalSampler(temperature=0.0), "temperature is 0.0"),
    ],
)
def test_impossible_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
