"""Tiny checkpoints of the supported architectures, and policies to load them into."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy

VOCABULARY, WIDTH, MLP, LAYERS, HEADS, HEAD_DIM = 400, 48, 96, 2, 4, 16
VISION_WIDTH, SIDE = 32, 28
EXPERT_WIDTH, EXPERT_MLP, HORIZON, ACTIONS, STATE = 24, 40, 4, 3, 5

TEXT = {
    "model_type": "gemma",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "head_dim": HEAD_DIM,
}
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": VISION_WIDTH,
    "intermediate_size": 2 * VISION_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
    "vision_use_head": False,
}


def tiny_paligemma() -> PaliGemmaForConditionalGeneration:
    """Transformers' PaliGemma, small and random."""
    config = PaliGemmaConfig(
        vision_config=TOWER | {"projection_dim": WIDTH},
        text_config=dict(TEXT),
        image_token_index=VOCABULARY - 1,
        projection_dim=WIDTH,
    )
    torch.manual_seed(1)
    model = PaliGemmaForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        # The initial values of norms would hide a weight that is not loaded.
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


DEPTH = {"depth": 2, "embed_dim": VISION_WIDTH, "num_heads": 2, "mlp_ratio": 2}
ENCODER = {
    "vision": {
        "name": "vit_so400m_patch14_siglip_224",
        "size": SIDE,
        "model_args": {"global_pool": "", "act_layer": "gelu_tanh", **DEPTH},
    },
    "language": {"config": TEXT},
    "state_dim": STATE,
}
EXPERT = {
    "width": EXPERT_WIDTH,
    "depth": LAYERS,
    "heads": HEADS,
    "kv_heads": 1,
    "head_dim": HEAD_DIM,
    "mlp": EXPERT_MLP,
}


def tiny_policy(class_path: str = "FlowMatching", **changes: Any) -> Policy:
    """A policy of the same architecture with other random weights."""
    args = {
        "encoder": ENCODER,
        "expert": EXPERT,
        "actions": {
            "horizon": HORIZON,
            "normalizer": {"class_path": "QuantileNormalizer", "init_args": {"dim": ACTIONS}},
        },
    }
    torch.manual_seed(2)
    return build_policy(deepcopy({"class_path": class_path, "init_args": args | changes}))


def tiny_pi05(
    adaptive: bool = True, actions: int = ACTIONS, states: int = STATE
) -> dict[str, torch.Tensor]:
    """A random checkpoint of π0.5 with openpi's names; of π0 if not ``adaptive``."""
    paligemma = tiny_paligemma().state_dict()
    paligemma.pop("model.language_model.embed_tokens.weight")  # equal to lm_head
    tensors = {f"paligemma_with_expert.paligemma.{name}": t for name, t in paligemma.items()}
    width, inner, mlp = EXPERT_WIDTH, HEADS * HEAD_DIM, EXPERT_MLP
    expert = "paligemma_with_expert.gemma_expert.model."
    shapes: dict[str, tuple[int, ...]] = {
        "paligemma_with_expert.gemma_expert.lm_head.weight": (VOCABULARY, width)
    }
    norms = [f"{expert}norm"]
    for layer in (f"{expert}layers.{index}." for index in range(LAYERS)):
        norms += [f"{layer}input_layernorm", f"{layer}post_attention_layernorm"]
        shapes[f"{layer}self_attn.q_proj.weight"] = (inner, width)
        shapes[f"{layer}self_attn.k_proj.weight"] = (HEAD_DIM, width)
        shapes[f"{layer}self_attn.v_proj.weight"] = (HEAD_DIM, width)
        shapes[f"{layer}self_attn.o_proj.weight"] = (width, inner)
        shapes[f"{layer}mlp.gate_proj.weight"] = (mlp, width)
        shapes[f"{layer}mlp.up_proj.weight"] = (mlp, width)
        shapes[f"{layer}mlp.down_proj.weight"] = (width, mlp)
    linears = {"action_in_proj": (width, actions), "action_out_proj": (actions, width)}
    if adaptive:
        linears |= {"time_mlp_in": (width, width), "time_mlp_out": (width, width)}
        linears |= {f"{norm}.dense": (3 * width, width) for norm in norms}
    else:
        linears |= {
            "state_proj": (width, states),
            "action_time_mlp_in": (width, 2 * width),
            "action_time_mlp_out": (width, width),
        }
        shapes |= {f"{norm}.weight": (width,) for norm in norms}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(3)
    random = {n: torch.randn(s, generator=generator) * 0.2 for n, s in shapes.items()}
    return {name: tensor.contiguous() for name, tensor in (tensors | random).items()}


def tiny_e0(bins: int) -> dict[str, torch.Tensor]:
    """E0's hybrid: the tensors of π0.5 and a pair of projections of one-hot tokens."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"onehot_in_proj": (EXPERT_WIDTH, bins), "onehot_out_proj": (bins, EXPERT_WIDTH)}
    tensors = tiny_pi05()
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.2
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.2
    return tensors


def write(tensors: dict[str, torch.Tensor], path: Path) -> str:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return str(path)
