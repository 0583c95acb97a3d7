"""Backbones too large to train in a test: built without memory, or shrunk."""

from pathlib import Path

import pytest
import torch
import yaml

from e0_lightning.policies.checkpoint import build_policy

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def merged(base, overlay):
    """The settings of one file over another's, as the command line lays them."""
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return overlay
    return base | {key: merged(base.get(key), value) for key, value in overlay.items()}


def settings(*names):
    tree = None
    for name in names:
        tree = merged(tree, yaml.safe_load((EXPERIMENTS / name).read_text()))
    return tree["model"]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def paper():
    """The paper's model without its numbers."""
    tree = settings("maniskill.yaml", "backbone/paligemma.yaml")
    tree["init_args"]["encoder"]["language"]["tokenizer"] = "byt5"  # its own is on the hub
    with torch.device("meta"):
        return build_policy(tree)


def test_parts_of_the_paper_scale_model_have_the_published_sizes(paper):
    assert count(paper.encoder.vision) == 412_442_352
    assert count(paper.encoder.language) == 2_508_662_784
    assert count(paper.encoder.projector) == 2_361_344
    # Gemma-300M without embedding, and the adaptive norms of pi0.5.
    layers = 18 * (1024 * 256 * (8 + 1 + 1 + 8) + 3 * 1024 * 4096)
    norms = (2 * 18 * 3 + 2) * 1024 * 1025
    assert count(paper.expert) == layers + norms + 2 * 1024 * 1025
    assert layers == pytest.approx(0.31e9, rel=0.01)


def test_every_name_of_the_published_checkpoint_has_a_place(paper):
    from e0_lightning.weights.filling import fill
    from e0_lightning.weights.openpi import plan

    theirs = dict(published())
    report = fill(dict(paper.named_parameters()), theirs.items(), plan(theirs))
    assert report.unexpected == []
    assert all(
        name.startswith(("expert.", "port.", "encoder.state.", "encoder.view_offset."))
        for name in report.missing
    )


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
    """The overlay's model with its language read from a folder, small."""
    from transformers import Qwen3Config, Qwen3Model

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    sizes = {"num_hidden_layers": 28, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 384}
    Qwen3Model(Qwen3Config(**shape, **sizes)).save_pretrained(tmp_path)
    tree = settings("maniskill.yaml", "backbone/qwen.yaml")
    args = tree["init_args"]
    args["encoder"]["language"] |= {"name": str(tmp_path), "tokenizer": "byt5"}
    args["encoder"]["vision"] |= {"pretrained": False, "side": 28}
    args["expert"] |= {"width": 16, "heads": 2, "kv_heads": 1, "head_dim": 16, "mlp": 16}
    policy = build_policy(tree)
    observation = {
        "images": {"base": torch.zeros(1, 3, 28, 28, dtype=torch.uint8)},
        "instruction": ["push"],
        "state": torch.zeros(1, 16),
    }
    assert len(policy.encoder(observation).keys) == 28
