"""What is decided stays, and the rest is drawn given it."""

import pytest
import torch
from test_diffusion_samplers import RULES, TwoModes, seeded

from e0_lightning.diffusion.flow_matching import RectifiedFlow
from e0_lightning.diffusion.inpainting import inpaint, steer, unmask
from e0_lightning.diffusion.masked import ConfidenceSampler, TokenMasking
from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.samplers import TweedieSampler
from e0_lightning.diffusion.schedules import IdentifiabilitySchedule, UniformSchedule
from e0_lightning.random import sample_normal


def first(chunk, count, batch):
    """Tokens of which the first ones of a chunk are known."""
    known = torch.full((batch, len(chunk)), -1)
    known[:, :count] = chunk[:count]
    return known


@pytest.mark.parametrize("count", [1, 4, 12])
@pytest.mark.parametrize("schedule", [UniformSchedule(), IdentifiabilitySchedule()])
def test_the_rest_of_a_chunk_follows_the_rarer_mode_that_it_begins_with(schedule, count):
    process = OneHotDiffusion(2048, alpha=0.1)
    exact, sampler = TwoModes(process, 50), TweedieSampler(num_steps=10, schedule=schedule)
    rarer = exact.modes[1]
    denoise, generator = inpaint(exact, process, first(rarer, count, 50)), seeded()
    drawn = [sampler(denoise, process, (50, 16), generator).tokens for _ in range(4)]
    assert (torch.cat(drawn) == rarer).all(dim=-1).float().mean() >= 0.99


@pytest.mark.parametrize("rule", RULES)
def test_known_tokens_come_back_from_every_rule(rule):
    process = OneHotDiffusion(num_bins=16, alpha=1.0)
    known = torch.randint(-1, 16, (7, 6), generator=seeded())
    tokens, logits = rule(num_steps=4)(inpaint(lambda x, tau: x, process, known), process, (7, 6))
    assert tokens[known >= 0].equal(known[known >= 0])
    assert logits.softmax(dim=-1).amax(dim=-1)[known >= 0].eq(1).all()


@pytest.mark.parametrize("rule", RULES)
def test_chunks_without_known_tokens_are_drawn_as_ever(rule):
    process = OneHotDiffusion(num_bins=16, alpha=1.0)
    known = torch.tensor([[-1, -1, -1], [3, -1, -1]])

    def draw(known):
        denoise = inpaint(lambda x, tau: x.roll(1, 1), process, known)
        return rule(num_steps=4)(denoise, process, (2, 3), seeded()).logits

    assert draw(known)[0].equal(draw(None)[0])
    assert not draw(known)[1].equal(draw(None)[1])


def test_a_revealed_token_is_as_long_as_noise_and_leaves_no_doubt():
    process, tau = OneHotDiffusion(num_bins=2048, alpha=0.1), torch.tensor([0.65, 0.9])
    tokens = torch.tensor([[5], [2047]])
    revealed, noisy = process.reveal(tokens, tau), process.corrupt(tokens, tau, seeded())
    assert revealed.norm(dim=-1).flatten().tolist() == pytest.approx(
        noisy.norm(dim=-1).flatten().tolist(), rel=0.1
    )
    evidence = revealed * (tau * process.alpha / (1 - tau) ** 2)[:, None, None]
    own = evidence.softmax(dim=-1).gather(-1, tokens[..., None])
    assert own.min() > 0.5


def test_masked_diffusion_sees_what_is_known_from_the_start():
    seen = []

    def predict(tokens):
        seen.append(tokens)
        return torch.randn(2, 5, 8, generator=seeded())

    known = torch.tensor([[1, 2, -1, -1, -1], [-1, -1, -1, -1, 7]])
    drawn = ConfidenceSampler(num_steps=3)(unmask(predict, known), TokenMasking(8), (2, 5))
    assert all(tokens[known >= 0].equal(known[known >= 0]) for tokens in [*seen, drawn])
    assert seen[0][known < 0].eq(8).all()


def test_known_numbers_of_a_flow_stay_on_their_straight_path():
    flow, levels = RectifiedFlow(), UniformSchedule()(5)
    ends = torch.full((2, 4, 3), torch.nan)
    ends[:, :2] = torch.randn(2, 2, 3, generator=seeded(1))
    field = steer(lambda x, tau: x + tau[:, None, None], ends)
    states = flow.integrate(field, (2, 4, 3), levels, seeded())
    plain = flow.integrate(lambda x, tau: x + tau[:, None, None], (2, 4, 3), levels, seeded())
    noise = sample_normal((2, 4, 3), seeded())
    for tau, state in zip([*levels.tolist(), 1.0], states, strict=True):
        path = torch.lerp(noise, ends, tau)[:, :2]
        torch.testing.assert_close(state[:, :2], path, rtol=0, atol=1e-5)
    assert states[-1][:, 2:].equal(plain[-1][:, 2:])
