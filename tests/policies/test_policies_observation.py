"""Observations that a policy refuses, and those that it computes alone or in a batch."""

import numpy as np
import pytest
import torch

from e0_lightning.types import ActionSampler
from tiny_policy import make_batch, ready_policy, tiny_settings

BINS = {"process": {"num_bins": 32}}
POLICIES = {
    "Regression": tiny_settings("Regression"),
    "FlowMatching": tiny_settings("FlowMatching"),
    "MaskedDiffusion": tiny_settings("MaskedDiffusion", **BINS),
    "Autoregressive": tiny_settings("Autoregressive", num_bins=32, temperature=1.0),
    "E0Hybrid": tiny_settings("E0Hybrid", **BINS),
    "E0, projected": tiny_settings(
        process={"num_bins": 32, "projected": True}, token_per="step", self_conditioning=True
    ),
} | {
    f"E0, {sampler}": tiny_settings(sampler={"class_path": sampler})
    for sampler in ("TweedieSampler", "ArgmaxSampler", "CategoricalSampler", "ReleasedSampler")
}
POLICIES["E0, eta"] = tiny_settings(
    sampler={"class_path": "TweedieSampler", "init_args": {"eta": 0.5}}
)


@pytest.fixture(scope="module")
def regression():
    return ready_policy(POLICIES["Regression"])


def rows(observation, *indices):
    """Rows of an observation, in a given order."""
    index = list(indices)
    return {
        "images": {view: frames[index] for view, frames in observation["images"].items()},
        "instruction": [observation["instruction"][i] for i in index],
        "state": observation["state"][index],
    }


@pytest.mark.parametrize("name", POLICIES)
def test_an_observation_alone_and_in_a_batch_of_eight_give_equal_bits(name):
    policy, observation = ready_policy(POLICIES[name]), make_batch(8)
    assert isinstance(policy, ActionSampler)
    seeds = list(range(100, 108))
    together = policy.sample_actions({**rows(observation, *range(8)), "noise_seed": seeds})
    for row in (0, 5):
        alone = policy.sample_actions({**rows(observation, row), "noise_seed": [seeds[row]]})
        assert torch.equal(alone.actions[0], together.actions[row])
        if alone.uncertainty is not None:
            assert torch.equal(alone.uncertainty[0], together.uncertainty[row])
    order = [6, 5, 2]
    mixed = policy.act({**rows(observation, *order), "noise_seed": [seeds[i] for i in order]})
    assert torch.equal(mixed, together.actions[order])


@pytest.mark.parametrize("name", ["FlowMatching", "E0, TweedieSampler"])
def test_another_seed_gives_other_actions(name):
    policy, observation = ready_policy(POLICIES[name]), make_batch(1)
    first, second = (policy.act({**observation, "noise_seed": [seed]}) for seed in (1, 2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": torch.full((4, 5), torch.nan)}, "state: expected finite .* with NaN"),
        ({"state": torch.zeros(5)}, r"state: expected .* \(B, Q\), got float32 of shape \(5,\)"),
        ({"state": torch.zeros(4, 5, dtype=torch.long)}, "state: expected finite float"),
        ({"state": torch.zeros(4, 2)}, "state: expected 5 dimensions .* got 2"),
        ({"state": np.zeros((4, 5))}, r"state: expected a torch\.Tensor, got ndarray"),
        ({"instruction": "open the drawer"}, "expected a list of B sentences, got 'open the"),
        ({"instruction": ["stop"]}, r"one batch size B .*'instruction': 1, 'state': 4"),
        ({"noise_seed": [1]}, "one batch size B .*'noise_seed': 1"),
        ({"images": {}}, r"images: expected \{'base'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_invalid_observation_is_refused_by_name(regression, changes, message):
    with pytest.raises(ValueError, match=message):
        regression.act({**make_batch(), **changes})


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda frames: frames.float(), r"float in \[0, 1\], got float32 .* to 255"),
        (lambda frames: frames.long(), r"expected uint8.*got int64"),
        (lambda frames: frames.float() * torch.nan, "with NaN or infinity"),
        (lambda frames: frames.numpy(), r"expected a torch\.Tensor, got ndarray"),
        (lambda frames: frames[..., :16], r"images: expected \{'base': \(3, 32, 32\)\}, got"),
    ],
    ids=["float to 255", "int64", "NaN", "numpy", "size"],
)
def test_invalid_images_are_refused_by_view(regression, convert, message):
    batch = make_batch()
    with pytest.raises(ValueError, match=message):
        regression.act({**batch, "images": {"base": convert(batch["images"]["base"])}})


def test_float64_states_and_float_images_in_the_unit_range_are_accepted(regression):
    batch = make_batch()
    expected = regression.act(batch)
    converted = {
        "images": {"base": batch["images"]["base"] / 255},
        "state": batch["state"].double(),
    }
    torch.testing.assert_close(regression.act({**batch, **converted}), expected)
