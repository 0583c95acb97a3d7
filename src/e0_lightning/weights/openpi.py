"""Weight mapping of π0 and π0.5 as openpi's PyTorch code, lerobot and E0's hybrid name them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from e0_lightning.weights.mapping import TensorMapping, WeightMapping
from e0_lightning.weights.paligemma import (
    REQUIRED,
    WORDS,
    paligemma_mapping,
    paligemma_tensors,
)

EXPERT = re.compile(r"^(model\.)?paligemma_with_expert\.gemma_expert\.(model\.)?")
NORMS = {
    "input_layernorm": "attention_norm.modulation",
    "post_attention_layernorm": "mlp_norm.modulation",
}
# openpi has no learned positions of action tokens, only rotary ones.
PROJECTIONS = ("projection", "flow_projection", "token_projection")
ZEROS = {f"{name}.positions": f"{name}.embedding.weight" for name in PROJECTIONS}
PERIODS = (4e-3, 4.0)
"""Shortest and longest period of the embedding of τ, in units of τ."""
UNUSED = r"gemma_expert\.lm_head\."
"""Gemma's output layer of words, which files of the expert contain."""
CONDITIONING = r"(^|\.)(state_proj|(action_)?time_mlp_(in|out))\."
"""How state and time enter the expert, without which its velocity means nothing."""


def openpi_mapping(names: Iterable[str]) -> WeightMapping:
    """Map the tensors of a π0, π0.5 or PaliGemma checkpoint, detected by its names, to a policy.

    π0's plain norms become the biases of adaptive norms without a condition, or with one of weight
    zero. A policy without diffusion time skips the embedding of time and the weights of π0.5's
    adaptive norms, and loads their biases. The action projections are skipped, except for a flow of
    the same width; with them, neither the embedding of time nor that of the state may be left
    behind. The state's dimensions past those of the policy are padding and are cut. A second
    pair of projections, which E0's released hybrid has beside π0.5's, belongs to the one-hot
    tokens, whatever precedes and follows ``in_proj`` and ``out_proj`` in its name.

    Args:
        names: Tensor names of the checkpoint.
    """
    names = list(names)
    if not any(EXPERT.match(name) for name in names):
        return paligemma_mapping(names)
    tensors = paligemma_tensors(names)
    for name in names:
        target = _expert(EXPERT.sub("", name)) if EXPERT.match(name) else _action_layer(name)
        if target is not None:
            tensors[name] = target
    is_pi05 = any("time_mlp_in" in name and "action" not in name for name in names)
    return WeightMapping(
        "π0.5" if is_pi05 else "π0",
        tensors,
        rf"{REQUIRED}|expert\." if is_pi05 else rf"{REQUIRED}|expert\..*_proj\.",
        ZEROS,
        rf"{UNUSED}|{WORDS}",
        CONDITIONING,
        anchor="action_in_proj.weight",
    )


def _expert(name: str) -> TensorMapping | None:
    """Map a tensor of Gemma's layers to the action expert."""
    if name.startswith("norm."):
        return _norm("expert.norm.modulation", name.removeprefix("norm."), parts=2)
    layer = re.match(r"layers\.(\d+)\.(\w+)\.(.*)$", name)
    if layer is None:
        return None
    number, module, rest = layer.groups()
    prefix = f"expert.layers.{number}."
    if module in NORMS:
        return _norm(prefix + NORMS[module], rest, parts=3)
    return TensorMapping(f"{prefix}{module.replace('self_attn', 'attention')}.{rest}")


def _norm(target: str, rest: str, parts: int) -> TensorMapping:
    """Map a norm, adaptive or plain; the last norm of the expert has no gate here."""
    if rest == "weight":
        return TensorMapping(f"{target}.bias", slice=(0, parts))
    kind = rest.removeprefix("dense.")
    transform = _drop_gate if parts == 2 else None
    return TensorMapping(f"{target}.{kind}", transform=transform, optional=kind == "weight")


def _action_layer(name: str) -> TensorMapping | None:
    """Map a tensor outside of the two transformers."""
    module, _, kind = name.removeprefix("model.").rpartition(".")
    match module:
        case "time_mlp_in":
            transform = _reverse_time if kind == "weight" else None
            return TensorMapping(f"expert.time.0.{kind}", transform=transform, optional=True)
        case "time_mlp_out":
            return TensorMapping(f"expert.time.2.{kind}", optional=True)
        case "action_time_mlp_in":
            transform = _reverse_concatenated_time if kind == "weight" else None
            return TensorMapping(f"expert.action_time.0.{kind}", transform=transform, optional=True)
        case "action_time_mlp_out":
            return TensorMapping(f"expert.action_time.2.{kind}", optional=True)
        case "state_proj":
            padded = kind == "weight"
            return TensorMapping(f"expert.state.{kind}", optional=True, padded_inputs=padded)
        case "action_in_proj":
            return _flow(f"projection.embedding.{kind}")
        case "action_out_proj":
            # openpi's velocity points from actions to noise.
            return _flow(f"projection.head.{kind}", torch.neg)
    if re.fullmatch(r"\w*in_proj\w*", module):
        return _tokens(f"projection.embedding.{kind}")
    if re.fullmatch(r"\w*out_proj\w*", module):
        return _tokens(f"projection.head.{kind}")
    return None


def _flow(target: str, transform: Callable[[Tensor], Tensor] | None = None) -> TensorMapping:
    """Map a projection of continuous actions to a flow-matching policy, or to a hybrid's flow."""
    return TensorMapping(target, transform=transform, optional=True, fallback=f"flow_{target}")


def _tokens(target: str) -> TensorMapping:
    """Map a projection of one-hot tokens to a hybrid, or to a policy over tokens alone."""
    return TensorMapping(f"token_{target}", optional=True, fallback=target)


def _drop_gate(modulation: Tensor) -> Tensor:
    """Keep scale and shift of a norm."""
    return modulation[: 2 * len(modulation) // 3]


def _reverse_concatenated_time(weight: Tensor) -> Tensor:
    """Convert a layer that reads an action token and the embedding of ``t`` side by side."""
    action, time = weight.chunk(2, dim=1)
    return torch.cat([action, _reverse_time(time)], dim=1)


def _reverse_time(weight: Tensor) -> Tensor:
    """Convert a layer that reads the embedding of ``t = 1 − τ`` to one that reads that of ``τ``.

    With ω = 2π/period, ``sin ω(1−τ) = sin ω cos ωτ − cos ω sin ωτ`` and
    ``cos ω(1−τ) = cos ω cos ωτ + sin ω sin ωτ``: the two embeddings differ by a rotation.
    """
    shortest, longest = PERIODS
    sines, cosines = weight.double().chunk(2, dim=1)
    steps = torch.linspace(0, 1, sines.shape[1], dtype=torch.float64, device=weight.device)
    omega = 2 * math.pi / (shortest * (longest / shortest) ** steps)
    rotated = [
        cosines * omega.sin() - sines * omega.cos(),
        sines * omega.sin() + cosines * omega.cos(),
    ]
    return torch.cat(rotated, dim=1).to(weight.dtype)
