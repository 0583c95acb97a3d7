"""The expert against a full implementation of the layer equations of π0 and π0.5."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from e0_lightning.networks.prefix_encoder import Prefix
from e0_lightning.weights.mapping import load_mapped
from e0_lightning.weights.openpi import openpi_mapping

from .weights_tiny_models import (
    ACTIONS,
    ENCODER,
    EXPERT,
    EXPERT_WIDTH,
    HEAD_DIM,
    HEADS,
    HORIZON,
    LAYERS,
    tiny_e0,
    tiny_pi05,
    tiny_policy,
)

LAYER_PREFIX = "paligemma_with_expert.gemma_expert.model."
PI0_ENCODER = ENCODER | {"state_token": "suffix"}
PI0_EXPERT = EXPERT | {"time_conditioning": "concat_mlp"}
B, P = 2, 5


def imported(tensors, **changes):
    policy = tiny_policy(**changes).eval()
    report = load_mapped(dict(policy.named_parameters()), tensors.items(), openpi_mapping(tensors))
    return policy, report


def linear(tensors, name, x):
    return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def rms(x):
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6)


def rotate(x, positions):
    """Rotary positions of base 10 000, the two halves of a head as real and imaginary parts."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    real, imaginary = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)


def velocity(tensors, noisy, t, keys, values, state=None):
    """Denoising step of π0 with a state, else of π0.5; t runs from 1, noise, to 0, actions."""
    x = linear(tensors, "action_in_proj", noisy)
    steps = torch.linspace(0, 1, EXPERT_WIDTH // 2, dtype=torch.float64)
    angles = 2 * math.pi * t.double()[:, None] / (4e-3 * (4.0 / 4e-3) ** steps)
    condition = torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    attend = torch.ones(HORIZON, P + HORIZON, dtype=torch.bool)
    if state is None:
        condition = F.silu(linear(tensors, "time_mlp_in", condition))
        condition = F.silu(linear(tensors, "time_mlp_out", condition))
    else:
        x = torch.cat([x, condition[:, None].expand_as(x)], dim=-1)
        x = F.silu(linear(tensors, "action_time_mlp_in", x))
        x = linear(tensors, "action_time_mlp_out", x)
        x = torch.cat([linear(tensors, "state_proj", state)[:, None], x], dim=1)
        attend = torch.ones(1 + HORIZON, P + 1 + HORIZON, dtype=torch.bool)
        attend[0, P + 1 :] = False
    length = len(attend)

    def norm(name, x):
        if state is not None:
            return rms(x) * (1 + tensors[f"{name}.weight"]), 1.0
        scale, shift, gate = linear(tensors, f"{name}.dense", condition)[:, None].chunk(3, dim=-1)
        return rms(x) * (1 + scale) + shift, gate

    positions = torch.arange(P, P + length).float()
    for index in range(LAYERS):
        layer = f"{LAYER_PREFIX}layers.{index}."
        normed, gate = norm(f"{layer}input_layernorm", x)
        query = linear(tensors, f"{layer}self_attn.q_proj", normed)
        query = query.view(B, length, HEADS, HEAD_DIM).transpose(1, 2)
        key = linear(tensors, f"{layer}self_attn.k_proj", normed)[:, None]
        value = linear(tensors, f"{layer}self_attn.v_proj", normed)[:, None]
        all_keys = torch.cat([keys[index], rotate(key, positions)], dim=2)
        all_values = torch.cat([values[index], value], dim=2)
        weights = rotate(query, positions) @ all_keys.transpose(2, 3) / HEAD_DIM**0.5
        weights = weights.masked_fill(~attend, -torch.inf)
        attended = (weights.softmax(dim=-1) @ all_values).transpose(1, 2).flatten(2)
        x = x + gate * linear(tensors, f"{layer}self_attn.o_proj", attended)
        normed, gate = norm(f"{layer}post_attention_layernorm", x)
        gated = F.gelu(linear(tensors, f"{layer}mlp.gate_proj", normed), approximate="tanh")
        hidden = gated * linear(tensors, f"{layer}mlp.up_proj", normed)
        x = x + gate * linear(tensors, f"{layer}mlp.down_proj", hidden)
    return linear(tensors, "action_out_proj", norm(f"{LAYER_PREFIX}norm", x)[0][:, -HORIZON:])


@pytest.fixture
def prefix():
    keys = tuple(torch.randn(B, 1, P, HEAD_DIM) for _ in range(LAYERS))
    values = tuple(torch.randn(B, 1, P, HEAD_DIM) for _ in range(LAYERS))
    return Prefix(keys, values, torch.ones(B, P, dtype=torch.bool))


@torch.no_grad()
def test_velocity_equals_the_equations_of_pi05(prefix):
    tensors = tiny_pi05()
    policy, report = imported(tensors)
    noisy, tau = torch.randn(B, HORIZON, ACTIONS), torch.tensor([0.3, 0.9])
    expected = velocity(tensors, noisy, 1 - tau, prefix.keys, prefix.values)
    # Here the velocity points from noise to actions.
    torch.testing.assert_close(policy.velocity(noisy, tau, prefix), -expected, atol=1e-5, rtol=1e-5)
    assert report.unexpected == []


@torch.no_grad()
def test_velocity_equals_the_equations_of_pi0(prefix):
    tensors, state = tiny_pi05(adaptive=False), torch.randn(B, 5)
    policy, report = imported(tensors, encoder=PI0_ENCODER, expert=PI0_EXPERT)
    noisy, tau = torch.randn(B, HORIZON, ACTIONS), torch.tensor([0.3, 0.9])
    expected = velocity(tensors, noisy, 1 - tau, prefix.keys, prefix.values, state)
    given = replace(prefix, state=state)
    torch.testing.assert_close(policy.velocity(noisy, tau, given), -expected, atol=1e-5, rtol=1e-5)
    assert report.unexpected == []
    assert {name.split(".")[1] for name in report.missing} == {"view_offset"}


@torch.no_grad()
def test_padding_of_pi0s_state_is_cut():
    tensors = tiny_pi05(adaptive=False)
    padded = torch.nn.functional.pad(tensors["state_proj.weight"], (0, 2), value=9.0)
    policy, report = imported(
        tensors | {"state_proj.weight": padded}, encoder=PI0_ENCODER, expert=PI0_EXPERT
    )
    assert torch.equal(policy.expert.state.weight, tensors["state_proj.weight"])
    assert report.unexpected == []


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, r"state_proj\.weight, action_time_mlp_in\.weight, .*action_time_mlp_out\.bias"),
        ({"expert": PI0_EXPERT}, r"state_proj\.weight, state_proj\.bias\. "),
        ({"encoder": PI0_ENCODER | {"state_dim": 6}, "expert": PI0_EXPERT}, r"state_proj\.weight"),
    ],
)
def test_a_flow_that_would_not_read_time_or_state_of_pi0_is_refused(changes, left):
    with pytest.raises(ValueError, match=rf"Left behind: {left}.*experiments/backbone/pi0\.yaml"):
        imported(tiny_pi05(adaptive=False), **changes)


def test_a_token_policy_reports_what_it_leaves_of_pi0():
    _, report = imported(tiny_pi05(adaptive=False), class_path="E0")
    skipped = {"state_proj", "action_time_mlp_in", "action_time_mlp_out"}
    skipped |= {"action_in_proj", "action_out_proj"}
    assert {name.split(".")[0] for name in report.unexpected} == skipped
    assert f"left behind: {report.unexpected[0]}, " in str(report)


def test_every_tensor_of_pi05_is_reported():
    _, report = imported(tiny_pi05())
    new = ("encoder.state.", "encoder.view_offset.")
    assert all(name.startswith(new) for name in report.missing)
    assert any(line.startswith("expert.norm.modulation.weight <- ") for line in report.reshaped)


def test_names_of_lerobot_with_a_model_prefix_are_mapped():
    plain, _ = imported(tiny_pi05())
    wrapped, _ = imported({f"model.{name}": tensor for name, tensor in tiny_pi05().items()})
    for name, parameter in wrapped.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name)), name


def test_token_policy_loads_all_but_the_action_projections():
    policy = tiny_policy("E0")
    tensors = tiny_pi05()
    report = load_mapped(dict(policy.named_parameters()), tensors.items(), openpi_mapping(tensors))
    assert {name.split(".")[0] for name in report.unexpected} == {
        "action_in_proj",
        "action_out_proj",
    }
    assert all(
        name.startswith(("projection.", "encoder.state.", "encoder.view_offset."))
        for name in report.missing
    )


def test_hybrid_loads_the_action_projections_for_its_flow():
    policy = tiny_policy("E0Hybrid")
    tensors = tiny_pi05()
    report = load_mapped(dict(policy.named_parameters()), tensors.items(), openpi_mapping(tensors))
    assert report.unexpected == []
    assert torch.equal(policy.flow_projection.embedding.weight, tensors["action_in_proj.weight"])
    assert not policy.flow_projection.positions.any()
    assert policy.token_projection.positions.any()


@pytest.mark.parametrize(("before", "after"), [("onehot_", ""), ("action_", "_discrete")])
def test_hybrid_loads_both_pairs_of_projections_of_the_released_hybrid(before, after):
    bins = 32
    renamed = {
        re.sub(r"onehot_(\w+)", rf"{before}\1{after}", name): tensor
        for name, tensor in tiny_e0(bins).items()
    }
    policy, report = imported(renamed, class_path="E0Hybrid", process={"num_bins": bins})
    assert report.unexpected == []
    assert {name.split(".")[1] for name in report.missing} == {"state", "view_offset"}
    for name, source in (("embedding", "in_proj"), ("head", "out_proj")):
        expected = renamed[f"{before}{source}{after}.weight"]
        assert torch.equal(policy.get_parameter(f"token_projection.{name}.weight"), expected)
    assert not policy.token_projection.positions.any()


def test_token_policy_loads_the_token_projections_of_a_hybrid():
    policy, report = imported(tiny_e0(32), class_path="E0", process={"num_bins": 32})
    assert {name.split(".")[0] for name in report.unexpected} == {
        "action_in_proj",
        "action_out_proj",
    }
    for kind in ("weight", "bias"):
        weight = policy.get_parameter(f"projection.embedding.{kind}")
        assert torch.equal(weight, tiny_e0(32)[f"onehot_in_proj.{kind}"])


def test_second_tensor_for_the_same_target_is_skipped_and_reported():
    tensors = tiny_e0(32) | {"other_in_proj.weight": tiny_e0(32)["onehot_in_proj.weight"] + 1}
    policy, report = imported(tensors, class_path="E0Hybrid", process={"num_bins": 32})
    assert report.unexpected == ["other_in_proj.weight"]
    assert torch.equal(policy.token_projection.embedding.weight, tensors["onehot_in_proj.weight"])


def test_policy_without_diffusion_time_loads_the_biases_of_adaptive_norms():
    tensors = tiny_pi05()
    policy, report = imported(tensors, class_path="Regression")
    skipped = {name for name in report.unexpected if not name.startswith("action_")}
    assert all(name.startswith("time_") or name.endswith("dense.weight") for name in skipped)
    bias = tensors[f"{LAYER_PREFIX}layers.1.input_layernorm.dense.bias"]
    assert torch.equal(policy.get_parameter("expert.layers.1.attention_norm.modulation.bias"), bias)
