"""The action prefix comes back unchanged, and the rest is sampled given it."""

import pytest
import torch
from test_diffusion_samplers import SAMPLERS, TwoModes, seeded

from e0_lightning.diffusion.flow_matching import RectifiedFlow
from e0_lightning.diffusion.inpainting import (
    inpaint_denoiser,
    inpaint_predictor,
    inpaint_velocity,
)
from e0_lightning.diffusion.masked import ConfidenceSampler, TokenMasking
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import TweedieSampler
from e0_lightning.diffusion.schedules import IdentifiabilitySchedule, UniformSchedule
from e0_lightning.random import sample_normal


def prefix_of(chunk, count, batch):
    """The first tokens of a chunk, −1 after them."""
    prefix_tokens = torch.full((batch, len(chunk)), -1)
    prefix_tokens[:, :count] = chunk[:count]
    return prefix_tokens


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("schedule", [UniformSchedule(), IdentifiabilitySchedule()])
def test_a_chunk_stays_in_the_rarer_mode_of_its_prefix(schedule, count):
    process = OneHotDiffusion(2048, alpha=0.1)
    exact, sampler = TwoModes(process, 50), TweedieSampler(num_steps=10, schedule=schedule)
    rarer = exact.modes[1]
    denoise, generator = inpaint_denoiser(exact, process, prefix_of(rarer, count, 50)), seeded()
    tokens = [sampler(denoise, process, (50, 16), generator)[0] for _ in range(4)]
    assert (torch.cat(tokens) == rarer).all(dim=-1).float().mean() >= 0.99


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_returns_the_prefix_tokens(sampler):
    process = OneHotDiffusion(num_bins=16, alpha=1.0)
    prefix_tokens = torch.randint(-1, 16, (7, 6), generator=seeded())
    denoise = inpaint_denoiser(lambda x, tau: x, process, prefix_tokens)
    tokens, logits = sampler(num_steps=4)(denoise, process, (7, 6))
    assert tokens[prefix_tokens >= 0].equal(prefix_tokens[prefix_tokens >= 0])
    assert logits.softmax(dim=-1).amax(dim=-1)[prefix_tokens >= 0].eq(1).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_without_a_prefix_are_sampled_as_without_inpainting(sampler):
    process = OneHotDiffusion(num_bins=16, alpha=1.0)
    prefix_tokens = torch.tensor([[-1, -1, -1], [3, -1, -1]])

    def sample(prefix_tokens):
        denoise = inpaint_denoiser(lambda x, tau: x.roll(1, 1), process, prefix_tokens)
        return sampler(num_steps=4)(denoise, process, (2, 3), seeded())[1]

    assert sample(prefix_tokens)[0].equal(sample(None)[0])
    assert not sample(prefix_tokens)[1].equal(sample(None)[1])


def test_inpainted_input_has_the_norm_of_noise_and_a_certain_posterior():
    process, tau = OneHotDiffusion(num_bins=2048, alpha=0.1), torch.tensor([0.65, 0.9])
    tokens = torch.tensor([[5], [2047]])
    clean, noisy = process.inpaint(tokens, tau), process.corrupt(tokens, tau, seeded())
    assert clean.norm(dim=-1).flatten().tolist() == pytest.approx(
        noisy.norm(dim=-1).flatten().tolist(), rel=0.1
    )
    evidence = clean * (tau * process.alpha / (1 - tau) ** 2)[:, None, None]
    own = evidence.softmax(dim=-1).gather(-1, tokens[..., None])
    assert own.min() > 0.5


def test_a_masked_predictor_gets_the_prefix_unmasked_in_every_round():
    inputs = []

    def predict(tokens):
        inputs.append(tokens)
        return torch.randn(2, 5, 8, generator=seeded())

    prefix_tokens = torch.tensor([[1, 2, -1, -1, -1], [-1, -1, -1, -1, 7]])
    conditioned = inpaint_predictor(predict, prefix_tokens)
    sampled, _ = ConfidenceSampler(num_steps=3)(conditioned, TokenMasking(8), (2, 5))
    assert all(
        tokens[prefix_tokens >= 0].equal(prefix_tokens[prefix_tokens >= 0])
        for tokens in [*inputs, sampled]
    )
    assert inputs[0][prefix_tokens < 0].eq(8).all()


def test_a_flow_keeps_the_prefix_on_its_straight_path():
    flow, taus = RectifiedFlow(), UniformSchedule()(5)
    action_prefix = torch.full((2, 4, 3), torch.nan)
    action_prefix[:, :2] = torch.randn(2, 2, 3, generator=seeded(1))
    field = inpaint_velocity(lambda x, tau: x + tau[:, None, None], action_prefix)
    states = [*flow.integrate(field, (2, 4, 3), taus, seeded())]
    plain = [*flow.integrate(lambda x, tau: x + tau[:, None, None], (2, 4, 3), taus, seeded())]
    noise = sample_normal((2, 4, 3), seeded())
    for tau, state in zip([*taus.tolist(), 1.0], states, strict=True):
        path = torch.lerp(noise, action_prefix, tau)[:, :2]
        torch.testing.assert_close(state[:, :2], path, rtol=0, atol=1e-5)
    assert states[-1][:, 2:].equal(plain[-1][:, 2:])
