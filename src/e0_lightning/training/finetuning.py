"""Which parts of a policy are trained, how fast, and what their memory is traded for."""

from __future__ import annotations

from os import PathLike
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

PREFIXES = {"vision": "encoder.vision.", "language": "encoder.language.", "expert": "expert."}
PARTS = (*PREFIXES, "other")
# The networks that a checkpoint to start from must fill; around them, sizes are the robot's.
PRETRAINED = (*PREFIXES.values(), "encoder.projector.")


def part_of(name: str) -> str:
    """Part of a policy, one of ``PARTS``, that a weight belongs to by its name."""
    return next((part for part, prefix in PREFIXES.items() if name.startswith(prefix)), "other")


class FineTuning:
    """Frozen parts, lr_multipliers of their own, adapters, and activations computed twice.

    Parts are ``vision``, ``language``, ``expert`` and ``other``: projector, state and what stands
    around the expert.

    Args:
        lr_multipliers: Part to factor on the learning rate; 0 freezes it, absent is 1.
        lora: Part to rank of low-rank adapters on its linear layers, all else in the part frozen
            (LoRA, arXiv 2106.09685; scaled by 1). Not for ``other``. Needs peft.
        gradient_checkpointing: Compute activations of vision, language model and expert again in
            the backward pass instead of keeping them.
        compile: Backend of ``torch.compile`` for the layers of vision and expert, e.g.
            ``inductor``; None leaves them as they are.

    Raises:
        ValueError: If there is no such part.
    """

    def __init__(
        self,
        lr_multipliers: dict[str, float] | None = None,
        lora: dict[str, int] | None = None,
        gradient_checkpointing: bool = False,
        compile: str | None = None,
    ) -> None:
        self.lr_multipliers, self.lora = dict(lr_multipliers or {}), dict(lora or {})
        self.gradient_checkpointing, self.compile = gradient_checkpointing, compile
        unknown = [part for part in (*self.lr_multipliers, *self.lora) if part not in PARTS]
        if unknown or "other" in self.lora:
            raise ValueError(
                f"fine_tuning: no such part {unknown or ['other']} here; lr_multipliers takes "
                f"{list(PARTS)}, lora takes {list(PREFIXES)}."
            )

    def apply(self, policy: nn.Module) -> None:
        """Freeze, add adapters and set how layers are run; once, after weights are loaded."""
        for part, rank in self.lora.items():
            _add_adapters(_transformer(policy, part), rank, part)
        for name, parameter in policy.named_parameters():
            if self.lr_multipliers.get(part_of(name)) == 0:
                parameter.requires_grad_(False)
        if self.gradient_checkpointing:
            cast(Any, policy).encoder.language.recompute()
            cast(Any, policy).expert.gradient_checkpointing = True
            backbone = _transformer(policy, "vision")
            if hasattr(backbone, "set_grad_checkpointing"):
                cast(Any, backbone).set_grad_checkpointing(True)
        if self.compile is not None:
            for part in ("vision", "expert"):
                layers = _transformer(policy, part)
                for layer in getattr(layers, "layers", getattr(layers, "blocks", [])):
                    layer.compile(backend=self.compile)

    def factors(self, policy: nn.Module) -> dict[nn.Parameter, float]:
        """Factor on the learning rate of each weight of a part that has one."""
        return {
            parameter: self.lr_multipliers[part_of(name)]
            for name, parameter in policy.named_parameters()
            if part_of(name) in self.lr_multipliers
        }


def start_from(policy: nn.Module, path: str | PathLike[str]) -> None:
    """Copy the weights of a checkpoint into a policy, and nothing else of it.

    Vision, language model, projector and expert must be those of the checkpoint; whatever else has
    another shape, as for another robot, keeps its start.

    Args:
        policy: Without adapters.
        path: A checkpoint of any policy, such as ``e0 import-weights`` writes.

    Raises:
        ValueError: If the file is no checkpoint, or its networks are others.
    """
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("state_dict")
    if state is None:
        raise ValueError(f"weights: {path} holds no state_dict; give a checkpoint of a policy.")
    kept, misfits = [], []
    for name, parameter in policy.named_parameters():
        found = state.get(name)
        if found is not None and found.shape == parameter.shape:
            with torch.no_grad():
                parameter.copy_(found)
        elif name.startswith(PRETRAINED):
            shape = None if found is None else tuple(found.shape)
            misfits.append(f"  {name}: {tuple(parameter.shape)} here, {shape} there")
        else:
            kept.append(name)
    for name, buffer in policy.named_buffers():
        # Such as the running statistics of a batch norm.
        found = state.get(name) if name.startswith(PRETRAINED) else None
        if found is not None and found.shape == buffer.shape:
            buffer.copy_(found)
    if misfits:
        raise ValueError(
            f"weights: {len(misfits)} tensors of {path} do not fit the model:\n"
            + "\n".join(misfits[:8])
            + "\nGive the model the networks that the checkpoint was made with. Adapters are no "
            "weights to start from."
        )
    rank_zero_info(f"Started from {path}; new are {', '.join(kept) or 'none'}.")


def _transformer(policy: Any, part: str) -> nn.Module:
    """The network of a part."""
    owner = {"vision": "encoder.vision.backbone", "language": "encoder.language.model"}
    return cast(nn.Module, policy.get_submodule(owner.get(part, part)))


def _add_adapters(network: nn.Module, rank: int, part: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(
            f"fine_tuning.lora[{part!r}] needs peft: pip install 'e0-lightning[finetune]'."
        ) from error
    # What no gradient reaches (the end of a language model's last layer) needs no adapter.
    linear = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    ]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=linear)
    inject_adapter_in_model(config, network)
