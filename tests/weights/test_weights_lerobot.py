"""Imported π0 and π0.5 against lerobot's own: the same small checkpoint, the same noise.

``lerobot_reference.json`` holds what lerobot computed; ``lerobot_reference.py`` writes it.
"""

import json
from pathlib import Path

import pytest
import torch

from e0_lightning.diffusion import flow_matching
from e0_lightning.policies.checkpoint import build_policy
from e0_lightning.types import PolicySpec
from e0_lightning.weights.mapping import load_mapped
from e0_lightning.weights.openpi import openpi_mapping

from .lerobot_tensors import (
    ACTIONS,
    CHUNK,
    EXPERT_MLP,
    EXPERT_WIDTH,
    HEAD_DIM,
    HEADS,
    INSTRUCTIONS,
    LAYERS,
    MAX_ACTIONS,
    MLP,
    SIDE,
    STATE,
    VIEWS,
    VISION_WIDTH,
    VOCABULARY,
    WIDTH,
    images,
    noise,
    random_tensor,
    state,
)

REFERENCE = json.loads(Path(__file__).with_name("lerobot_reference.json").read_text())
NETWORKS = {
    "pi0": (
        {"state_token": "suffix", "prompt": {"template": "{instruction}\n"}},
        {"time_conditioning": "concat_mlp"},
    ),
    "pi05": (
        {
            "state_token": None,
            "prompt": {"template": "Task: {instruction}, State: {state};\nAction: "},
        },
        {},
    ),
}
SPEC = PolicySpec(
    views=dict.fromkeys((*VIEWS, "absent"), SIDE),
    state={"qpos": STATE},
    action_dim=ACTIONS,
    horizon=CHUNK,
)


class Demos:
    """Statistics that normalize by other maps than the identity."""

    spec = SPEC

    def action_chunks(self):
        generator = torch.Generator().manual_seed(0)
        actions = 1 + 3 * torch.rand(64, CHUNK, ACTIONS, generator=generator)
        states = 2 + 5 * torch.rand(64, STATE, generator=generator)
        yield actions, states, torch.ones(64, CHUNK, dtype=torch.bool)


def build(model):
    depth = {"depth": 2, "embed_dim": VISION_WIDTH, "num_heads": 2, "mlp_ratio": 2}
    language = {"model_type": "gemma", "vocab_size": VOCABULARY, "hidden_size": WIDTH}
    language |= {"intermediate_size": MLP, "num_hidden_layers": LAYERS}
    language |= {"num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": HEAD_DIM}
    encoder, expert = NETWORKS[model]
    args = {
        "encoder": {
            "vision": {
                "name": "vit_so400m_patch14_siglip_224",
                "size": SIDE,
                "model_args": {"global_pool": "", "act_layer": "gelu_tanh", **depth},
            },
            "language": {"config": language},
            "state_dim": STATE,
            **encoder,
        },
        "expert": {"width": EXPERT_WIDTH, "depth": LAYERS, "heads": HEADS, "mlp": EXPERT_MLP}
        | expert,
        "actions": {
            "horizon": CHUNK,
            "normalizer": {"class_path": "QuantileNormalizer", "init_args": {"dim": ACTIONS}},
            "model_dim": MAX_ACTIONS,
            "predict_padding": True,
        },
    }
    return build_policy({"class_path": "FlowMatching", "init_args": args}).eval()


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def imported(request):
    """Name, policy with the weights of the checkpoint, and the report of the import."""
    policy = build(request.param)
    policy.fit_normalizers(Demos())
    shapes = REFERENCE[request.param]["shapes"]
    tensors = {name: torch.from_numpy(random_tensor(name, shapes[name])) for name in shapes}
    report = load_mapped(dict(policy.named_parameters()), tensors.items(), openpi_mapping(tensors))
    return request.param, policy, report


def observation(model, normalizer):
    views = {view: torch.from_numpy(pixels) for view, pixels in images().items()}
    return {
        "images": views | {"absent": torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)},
        "image_mask": {"absent": torch.zeros(2, dtype=torch.bool)},
        "instruction": INSTRUCTIONS[model],
        "state": normalizer.undo(torch.from_numpy(state())),
    }


def expected(model, name):
    return torch.tensor(REFERENCE[model][name]).view(2, CHUNK, MAX_ACTIONS)


def test_no_tensor_is_left_behind(imported):
    _, _, report = imported
    assert report.unexpected == []
    assert "left behind: none" in str(report)
    assert all(name.startswith("encoder.view_offset.") for name in report.missing)
    assert all(".lm_head." in name for name in report.unused)


def test_prompts_are_those_of_lerobot(imported):
    model, policy, _ = imported
    prompts = policy.encoder.prompt(INSTRUCTIONS[model], torch.from_numpy(state()))
    assert prompts == REFERENCE[model]["prompts"]


@torch.no_grad()
def test_velocity_and_errors_equal_those_of_lerobot(imported):
    model, policy, _ = imported
    prefix, start = policy.encode(observation(model, policy.state_normalizer)), noise()
    first = policy.velocity(torch.from_numpy(start), torch.zeros(2), prefix)
    # lerobot's velocity points from actions to noise.
    torch.testing.assert_close(first, -expected(model, "first_velocity"), rtol=0, atol=2e-5)
    tau = torch.full((2,), 1 - REFERENCE["time"])
    noisy = (1 - tau[0]) * torch.from_numpy(start)
    squared = (policy.velocity(noisy, tau, prefix) + torch.from_numpy(start)) ** 2
    torch.testing.assert_close(squared, expected(model, "squared_error"), rtol=1e-5, atol=2e-5)


def test_actions_from_the_same_noise_equal_those_of_lerobot(imported, monkeypatch):
    model, policy, _ = imported
    monkeypatch.setattr(flow_matching, "sample_normal", lambda *_: torch.from_numpy(noise()))
    given = observation(model, policy.state_normalizer)
    actions = policy.actions.undo(expected(model, "actions"), given["state"])
    torch.testing.assert_close(policy.act(given), actions, rtol=0, atol=5e-5)
