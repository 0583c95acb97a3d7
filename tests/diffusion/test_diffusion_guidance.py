"""Classifier-free guidance of a denoiser, and the instructions that training drops."""

import pytest
import torch
from test_diffusion_samplers import SAMPLERS, seeded

from e0_lightning.diffusion.guidance import InstructionGuidance
from e0_lightning.diffusion.one_hot import OneHotDiffusion


def denoise_pairs(x_tau, tau):
    """Different posteriors for the first and the second half of the rows."""
    conditional, unconditional = x_tau.chunk(2)
    return torch.cat([3 * conditional, unconditional.roll(1, -1)])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 4.0])
def test_the_guided_posterior_is_a_power_of_the_ratio(scale):
    x_tau = torch.randn(5, 3, 7, generator=seeded(), dtype=torch.float32)
    guided = InstructionGuidance(scale=scale).guide(denoise_pairs)(x_tau, torch.rand(5))
    given, empty = (3 * x_tau).softmax(-1), x_tau.roll(1, -1).softmax(-1)
    power = empty * (given / empty) ** scale
    torch.testing.assert_close(guided.softmax(-1), power / power.sum(-1, keepdim=True))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_guided(sampler):
    process = OneHotDiffusion(num_bins=16, alpha=1.0)

    def posterior(scale):
        def preferring(x_tau, tau):
            logits = torch.zeros_like(x_tau)
            logits[: len(x_tau) // 2, ..., 3] = 1.0
            return logits

        guided = InstructionGuidance(scale=scale).guide(preferring)
        return sampler(num_steps=3)(guided, process, (2, 4), seeded())[1].softmax(-1)[..., 3]

    assert (posterior(0.0) < posterior(2.0)).all()
    assert (posterior(2.0) < posterior(5.0)).all()


def test_the_share_of_dropped_instructions_is_as_asked_and_reproducible():
    guidance, sentences = InstructionGuidance(dropout=0.2), [f"task {i}" for i in range(20_000)]
    dropped = guidance.drop(sentences, seeded())
    # Five standard deviations of a binomial.
    assert dropped.count("") / len(dropped) == pytest.approx(0.2, abs=0.015)
    assert all(new in ("", old) for new, old in zip(dropped, sentences, strict=True))
    assert dropped == guidance.drop(sentences, seeded())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dropout": 0.0}, r"guidance.dropout: expected .* Set guidance to null"),
        ({"dropout": 1.0}, "guidance.dropout: expected a probability between 0 and 1, got 1.0"),
        ({"scale": -1.0}, "guidance.scale: expected a finite number from 0, got -1.0"),
        ({"scale": float("nan")}, "guidance.scale: expected a finite number from 0, got nan"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        InstructionGuidance(**wrong)
