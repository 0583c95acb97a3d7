"""Backbones too large to train in a test: built on the meta device, or with small sizes."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from e0_lightning.cli.lightning_cli import run
from e0_lightning.weights.mapping import load_mapped
from e0_lightning.weights.openpi import openpi_mapping

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
# Without demonstrations, sizes are given: state, action dimensions and horizon.
SIZES = {"maniskill.yaml": (16, 8), "libero.yaml": (8, 7)}
PAPER = ("maniskill.yaml", "backbone/paligemma.yaml", "setting/paper.yaml")


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("files", "horizon", "dimensions"),
    [
        (("maniskill.yaml", "setting/paper.yaml", "backbone/paligemma.yaml"), 50, 8),
        (("libero.yaml", "backbone/paligemma.yaml", "setting/paper.yaml"), 10, 7),
    ],
    ids=["maniskill", "libero"],
)
def test_the_papers_hyperparameters_are_those_of_the_overlays(files, horizon, dimensions):
    built = build_on_meta(*files, horizon=horizon)
    trainer, policy, data = built.trainer, built.model, built.datamodule
    assert (trainer.max_steps, trainer.gradient_clip_val) == (30_000, 1.0)
    assert trainer.precision == "bf16-mixed"
    (averaging,) = [c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging)]
    assert averaging_decay(averaging) == pytest.approx(0.999)
    assert data.batch_size == 32
    assert data.horizon == policy.actions.horizon == horizon
    assert policy.actions.width == dimensions
    assert policy.num_tokens == horizon * dimensions
    assert (policy.process.num_bins, policy.process.alpha) == (2048, 0.1)
    assert policy.sampler.num_steps == 10
    lr_at = policy.optimizer.lr_at
    assert lr_at(0, 30_000) == pytest.approx(5e-9)
    assert lr_at(10_000, 30_000) == lr_at(29_999, 30_000) == 5e-5
    optimizer = policy.optimizer.configure(policy.parameters(), 30_000)["optimizer"]
    assert type(optimizer) is torch.optim.AdamW


def build(*files, options=(), horizon=10):
    """Build experiments by the command line, with a tokenizer that needs no download."""
    state_dim, action_dim = SIZES[files[0]]
    configs = [f"--config={EXPERIMENTS / name}" for name in files]
    sizes = [
        f"--model.encoder.state_dim={state_dim}",
        f"--model.actions.normalizer.dim={action_dim}",
        f"--model.actions.horizon={horizon}",
    ]
    tokenizer = "--model.encoder.language.tokenizer=byt5"
    words = [*configs, *sizes, tokenizer, "--trainer.accelerator=cpu", *options]
    return run(words, start=False)


def build_on_meta(*files, options=(), horizon=10):
    """Build experiments without allocating memory."""
    with torch.device("meta"):
        return build(*files, options=options, horizon=horizon)


def averaging_decay(averaging):
    """Decay of weight averaging: one minus the average of 0 with a new weight of 1."""
    return 1 - float(averaging._kwargs["avg_fn"](torch.zeros(()), torch.ones(()), 1))


@pytest.fixture(scope="module")
def paper():
    """The paper's model on the meta device."""
    return build_on_meta(*PAPER).model


def test_parts_of_the_paper_scale_model_have_the_published_sizes(paper):
    assert count(paper.encoder.vision) == 412_442_352
    assert count(paper.encoder.language) == 2_508_662_784
    assert count(paper.encoder.projector) == 2_361_344
    # Gemma-300M without embedding, and the adaptive norms of pi0.5.
    layers = 18 * (1024 * 256 * (8 + 1 + 1 + 8) + 3 * 1024 * 4096)
    norms = (2 * 18 * 3 + 2) * 1024 * 1025
    assert count(paper.expert) == layers + norms + 2 * 1024 * 1025
    assert layers == pytest.approx(0.31e9, rel=0.01)


def test_every_tensor_of_the_published_checkpoint_is_mapped(paper):
    tensors = dict(published())
    report = load_mapped(dict(paper.named_parameters()), tensors.items(), openpi_mapping(tensors))
    assert report.unexpected == []
    assert all(
        name.startswith(("expert.", "projection.", "encoder.state.", "encoder.view_offset."))
        for name in report.missing
    )


def test_every_tensor_of_a_released_hybrid_is_mapped():
    files = ("maniskill.yaml", "backbone/paligemma.yaml", "policy/hybrid.yaml")
    model_dim = "--model.init_args.actions.model_dim=32"
    hybrid = build_on_meta(*files, options=[model_dim, "--model.process.num_bins=2048"]).model
    with torch.device("meta"):
        tensors = dict(released())
    report = load_mapped(dict(hybrid.named_parameters()), tensors.items(), openpi_mapping(tensors))
    assert report.unexpected == []
    assert all(
        name.startswith(("encoder.state.", "encoder.view_offset.")) for name in report.missing
    )
    assert report.fraction > 0.999


@pytest.mark.parametrize("version", ["pi0", "pi05"])
def test_every_tensor_of_pi0_and_pi05_is_mapped_to_the_overlays_networks(version):
    files = ("libero.yaml", f"backbone/{version}.yaml", "policy/flow_matching.yaml")
    policy = build_on_meta(*files, horizon=50).model
    assert policy.state_normalizer.dim == 8
    with torch.device("meta"):
        tensors = dict(physical_intelligence(adaptive=version == "pi05"))
    report = load_mapped(dict(policy.named_parameters()), tensors.items(), openpi_mapping(tensors))
    assert report.unexpected == []
    assert all(name.startswith("encoder.view_offset.") for name in report.missing)
    layers = 18 * (1024 * 256 * (8 + 1 + 1 + 8) + 3 * 1024 * 4096)
    norms, time = (2 * 18 * 3 + 2) * 1024 * 1025, 2 * 1024 * 1025
    if version == "pi0":
        # The state's projection, and no weights of a condition in the norms.
        norms, time = norms // 1025, 3 * 1024 * 1024 + 2 * 1024 + (8 + 1) * 1024
    assert count(policy.expert) == layers + norms + time


def released():
    """Names and shapes of E0's hybrid in openpi's layout: π0.5 and one-hot projections."""
    yield from physical_intelligence(adaptive=True)
    for name, shape in {"onehot_in_proj": (1024, 2048), "onehot_out_proj": (2048, 1024)}.items():
        yield f"{name}.weight", torch.empty(shape)
        yield f"{name}.bias", torch.empty(shape[:1])


def physical_intelligence(adaptive):
    """Names and shapes of π0.5 in openpi's layout, or of π0 if not ``adaptive``."""
    inside = "paligemma_with_expert."
    yield from ((f"{inside}paligemma.{name}", tensor) for name, tensor in published())
    yield f"{inside}gemma_expert.lm_head.weight", torch.empty(257_152, 1024)
    width, shapes, norms = 1024, {}, [f"{inside}gemma_expert.model.norm"]
    for index in range(18):
        layer = f"{inside}gemma_expert.model.layers.{index}."
        shapes |= {
            f"{layer}self_attn.q_proj": (2048, width),
            f"{layer}self_attn.k_proj": (256, width),
            f"{layer}self_attn.v_proj": (256, width),
            f"{layer}self_attn.o_proj": (width, 2048),
            f"{layer}mlp.gate_proj": (4096, width),
            f"{layer}mlp.up_proj": (4096, width),
            f"{layer}mlp.down_proj": (width, 4096),
        }
        norms += [f"{layer}input_layernorm", f"{layer}post_attention_layernorm"]
    if adaptive:
        shapes |= {f"{norm}.dense": (3 * width, width) for norm in norms}
        shapes |= {"time_mlp_in": (width, width), "time_mlp_out": (width, width)}
    else:
        yield from ((f"{norm}.weight", torch.empty(width)) for norm in norms)
        shapes |= {"action_time_mlp_in": (width, 2 * width), "action_time_mlp_out": (width, width)}
        shapes["state_proj"] = (width, 32)
    shapes |= {"action_in_proj": (width, 32), "action_out_proj": (32, width)}
    for name, shape in shapes.items():
        yield f"{name}.weight", torch.empty(shape)
        if not name.endswith(
            ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        ):
            yield f"{name}.bias", torch.empty(shape[:1])


def published():
    """Names and shapes of google/paligemma-3b-pt-224."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 2048,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            "vocab_size": 257_216,
            "hidden_size": 2048,
            "intermediate_size": 16_384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
        },
        projection_dim=2048,
    )
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config)
    return [item for item in model.state_dict().items() if item[0] != "lm_head.weight"]


def test_any_decoder_of_transformers_is_a_backbone(tmp_path):
    """The overlay's model with a small language model from a folder."""
    from transformers import Qwen3Config, Qwen3Model

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    sizes = {"num_hidden_layers": 28, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 384}
    Qwen3Model(Qwen3Config(**shape, **sizes)).save_pretrained(tmp_path)
    small = {
        "encoder.language.name": tmp_path,
        "encoder.vision.pretrained": False,
        "encoder.vision.size": 28,
        "expert.width": 16,
        "expert.heads": 2,
        "expert.mlp": 16,
    }
    options = [f"--model.init_args.{name}={value}" for name, value in small.items()]
    policy = build("maniskill.yaml", "backbone/qwen.yaml", options=options).model
    observation = {
        "images": {"base": torch.zeros(1, 3, 28, 28, dtype=torch.uint8)},
        "instruction": ["push"],
        "state": torch.zeros(1, 16),
    }
    assert len(policy.encoder(observation).keys) == 28
