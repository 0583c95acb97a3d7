"""π0 and π0.5 in the PyTorch layout of openpi, which lerobot's files and E0's hybrid share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from e0_lightning.weights.mapping import TensorMapping, WeightMapping
from e0_lightning.weights.paligemma import REQUIRED, paligemma_places, paligemma_plan

EXPERT = re.compile(r"^(model\.)?paligemma_with_expert\.gemma_expert\.(model\.)?")
NORMS = {
    "input_layernorm": "attention_norm.modulation",
    "post_attention_layernorm": "mlp_norm.modulation",
}
# Steps of a chunk tell themselves apart by their rotary positions alone.
PORTS = ("projection", "flow_projection", "token_projection")
ZEROS = {f"{port}.positions": f"{port}.embed.weight" for port in PORTS}
PERIODS = (4e-3, 4.0)  # shortest and longest of the embedding of τ, in units of τ


def plan(names: Iterable[str]) -> WeightMapping:
    """Places of a checkpoint's tensors in a policy; π0, π0.5 and PaliGemma tell themselves apart.

    Ours has adaptive norms in every expert. π0's plain norms become their bias, which leaves the
    network as it was: a condition without weight changes nothing. π0's time enters beside the
    actions and is left behind, as are its state token and, unless the policy is a flow of the
    checkpoint's width, the projections of actions. A second pair of projections, as E0's released
    hybrid has beside π0.5's, is that of one-hot tokens, whatever stands before and after
    ``in_proj`` and ``out_proj`` in its name.

    Args:
        names: Its tensors.
    """
    names = list(names)
    if not any(EXPERT.match(name) for name in names):
        return paligemma_plan(names)
    places = paligemma_places(names)
    for name in names:
        place = _expert(EXPERT.sub("", name)) if EXPERT.match(name) else _outside(name)
        if place is not None:
            places[name] = place
    if any("time_mlp_in" in name and "action" not in name for name in names):
        return WeightMapping("π0.5", places, rf"{REQUIRED}|expert\.", ZEROS)
    return WeightMapping("π0", places, rf"{REQUIRED}|expert\..*_proj\.", ZEROS)


def _expert(name: str) -> TensorMapping | None:
    """A tensor of Gemma's layers in the action expert."""
    if name.startswith("norm."):
        return _norm("expert.norm.modulation", name.removeprefix("norm."), parts=2)
    layer = re.match(r"layers\.(\d+)\.(\w+)\.(.*)$", name)
    if layer is None:
        return None
    number, module, rest = layer.groups()
    ours = f"expert.layers.{number}."
    if module in NORMS:
        return _norm(ours + NORMS[module], rest, parts=3)
    return TensorMapping(f"{ours}{module.replace('self_attn', 'attention')}.{rest}")


def _norm(ours: str, rest: str, parts: int) -> TensorMapping:
    """A norm, adaptive or plain; the last one has no gate in ours."""
    if rest == "weight":
        return TensorMapping(f"{ours}.bias", rows=(0, parts))
    return TensorMapping(
        f"{ours}.{rest.removeprefix('dense.')}", change=_drop_gate if parts == 2 else None
    )


def _outside(name: str) -> TensorMapping | None:
    """A tensor beside the two transformers."""
    module, _, kind = name.removeprefix("model.").rpartition(".")
    match module:
        case "time_mlp_in":
            return TensorMapping(
                f"expert.time.0.{kind}", change=_turn_time if kind == "weight" else None
            )
        case "time_mlp_out":
            return TensorMapping(f"expert.time.2.{kind}")
        case "action_in_proj":
            return _of_flow(f"projection.embedding.{kind}")
        case "action_out_proj":
            # Its velocity points from actions to noise.
            return _of_flow(f"projection.head.{kind}", torch.neg)
    if re.fullmatch(r"\w*in_proj\w*", module):
        return _of_tokens(f"projection.embedding.{kind}")
    if re.fullmatch(r"\w*out_proj\w*", module):
        return _of_tokens(f"projection.head.{kind}")
    return None


def _of_flow(ours: str, change: Callable[[Tensor], Tensor] | None = None) -> TensorMapping:
    """A projection of continuous actions: a flow's own, or that of a hybrid's flow tokens."""
    return TensorMapping(ours, change=change, is_optional=True, otherwise=f"flow_{ours}")


def _of_tokens(ours: str) -> TensorMapping:
    """A projection of one-hot tokens: a hybrid's, or that of a policy over tokens alone."""
    return TensorMapping(f"token_{ours}", is_optional=True, otherwise=ours)


def _drop_gate(modulation: Tensor) -> Tensor:
    """Scale and shift of a norm whose gate nothing reads."""
    return modulation[: 2 * len(modulation) // 3]


def _turn_time(weight: Tensor) -> Tensor:
    """Read ``τ`` where the weights were trained to read ``t = 1 − τ``, exactly.

    With ω = 2π/period, ``sin ω(1−τ) = sin ω cos ωτ − cos ω sin ωτ`` and
    ``cos ω(1−τ) = cos ω cos ωτ + sin ω sin ωτ``: the embedding of t is a rotation of τ's.
    """
    shortest, longest = PERIODS
    sines, cosines = weight.double().chunk(2, dim=1)
    steps = torch.linspace(0, 1, sines.shape[1], dtype=torch.float64, device=weight.device)
    omega = 2 * math.pi / (shortest * (longest / shortest) ** steps)
    turned = [
        cosines * omega.sin() - sines * omega.cos(),
        sines * omega.sin() + cosines * omega.cos(),
    ]
    return torch.cat(turned, dim=1).to(weight.dtype)
