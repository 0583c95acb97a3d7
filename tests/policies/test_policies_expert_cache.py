"""Samples with the expert's cache equal samples whose every pass computes everything anew."""

import pytest
import torch

from tiny_policy import act_seeded, make_batch, ready_policy, tiny_settings

POLICIES = {
    "E0": tiny_settings(),
    "E0, token per step": tiny_settings(token_per="step"),
    "E0, self-conditioned": tiny_settings(self_conditioning=True, token_per="step"),
    "E0, argmax": tiny_settings(sampler={"class_path": "ArgmaxSampler"}),
    "FlowMatching": tiny_settings("FlowMatching"),
    "MaskedDiffusion": tiny_settings("MaskedDiffusion", process={"num_bins": 32}),
}


@pytest.fixture(params=POLICIES)
def policy(request):
    policy = ready_policy(POLICIES[request.param])
    for parameter in policy.expert.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # an untrained expert ignores tau
    return policy


def without_cache(policy, monkeypatch):
    monkeypatch.setattr(policy.expert, "prepare", lambda prefix, *_: [prefix])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_actions_are_equal_with_and_without_the_cache(policy, precision, monkeypatch):
    policy.precision = precision
    # bfloat16 rounds noisy one-hots, of which the most likely tokens are chosen.
    tolerance = 1e-6 if precision == "32-true" else 0.1
    cached = act_seeded(policy, make_batch())
    without_cache(policy, monkeypatch)
    torch.testing.assert_close(act_seeded(policy, make_batch()), cached, rtol=0, atol=tolerance)


def test_actions_that_continue_a_prefix_are_equal_too(policy, monkeypatch):
    batch = make_batch()
    batch = {**batch, "action_prefix": [each[:2] for each in batch["actions"]]}
    cached = act_seeded(policy, batch)
    without_cache(policy, monkeypatch)
    torch.testing.assert_close(act_seeded(policy, batch), cached, rtol=0, atol=1e-6)
