"""Freezing, per-part learning rates, LoRA, gradient checkpointing and compilation."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

PREFIXES = {"vision": "encoder.vision.", "language": "encoder.language.", "expert": "expert."}
PARTS = (*PREFIXES, "other")
NETWORKS = {
    "vision": "encoder.vision.backbone",
    "language": "encoder.language.model",
    "expert": "expert",
}
"""Part of a policy to its network."""


def part_of(name: str) -> str:
    """Part of a policy, one of ``PARTS``, that a parameter belongs to by its name."""
    return next((part for part, prefix in PREFIXES.items() if name.startswith(prefix)), "other")


class FineTuning:
    """Trains parts of a policy with adapters, at other learning rates, or in less memory.

    Parts are ``vision``, ``language``, ``expert`` and ``other``: projector, state embedding and
    the layers around the expert.

    Args:
        lr_multipliers: Part to factor on the learning rate; absent is 1. 0 freezes the part: its
            weights get no gradient, and it stays in evaluation mode (no dropout, constant batch
            norm statistics).
        lora: Part to rank of low-rank adapters on its linear layers, or on the convolutions of a
            backbone without linear layers; the other weights of the part are frozen
            (LoRA, arXiv 2106.09685; scaled by 1). Not for ``other``. Needs peft.
        gradient_checkpointing: Recompute the activations of vision, language model and expert in
            the backward pass instead of storing them.
        compile: Backend of ``torch.compile`` for the language model and the repeated blocks of
            vision and expert, e.g. ``inductor``; None compiles nothing.

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
        self.is_applied = False
        for option, given, parts in (
            ("lr_multipliers", self.lr_multipliers, PARTS),
            ("lora", self.lora, tuple(PREFIXES)),
        ):
            if unknown := [part for part in given if part not in parts]:
                raise ValueError(
                    f"fine_tuning.{option}: expected parts among {list(parts)}, got {unknown}."
                )

    def apply(self, policy: nn.Module) -> None:
        """Freeze, add adapters, set checkpointing and compile; a second call changes nothing.

        Args:
            policy: Policy with its pretrained weights loaded.

        Raises:
            ValueError: If a network does not support one of the options.
        """
        if self.is_applied:
            return
        if "vision" in {*self.lora, *self.lr_multipliers} and not _has_vision(policy):
            raise ValueError(
                "fine_tuning: expected parts of the policy, got vision, which a policy of the "
                "state alone lacks. Leave it out."
            )
        self.is_applied = True
        for part, rank in self.lora.items():
            _add_adapters(_network(policy, part), rank, part)
        for name, parameter in policy.named_parameters():
            if self.lr_multipliers.get(part_of(name)) == 0:
                parameter.requires_grad_(False)
        if self.gradient_checkpointing:
            cast(Any, policy).encoder.language.recompute()
            cast(Any, policy).expert.gradient_checkpointing = True
            if _has_vision(policy):
                _checkpoint_vision(_network(policy, "vision"))
        if self.compile is not None:
            for part in ("vision", "expert") if _has_vision(policy) else ("expert",):
                _compile_blocks(_network(policy, part), self.compile, part)
            # In one graph: each layer leaves its keys and values behind those of the layers before,
            # so that it would need a graph of its own, and PyTorch compiles no more than eight.
            cast(Any, policy).encoder.language.compile(backend=self.compile)
            if self.gradient_checkpointing:
                _compile_through_recomputation()
        self.keep_frozen_in_eval(policy)

    def keep_frozen_in_eval(self, policy: nn.Module) -> None:
        """Put frozen parts in evaluation mode; call after each ``policy.train()``."""
        for part in NETWORKS:
            if self.lr_multipliers.get(part) == 0:
                _eval_mode(_network(policy, part))
            elif part in self.lora:
                for module in _network(policy, part).modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()

    def multipliers(self, policy: nn.Module) -> dict[nn.Parameter, float]:
        """Learning-rate multiplier of each parameter of a part that has one."""
        return {
            parameter: self.lr_multipliers[part_of(name)]
            for name, parameter in policy.named_parameters()
            if part_of(name) in self.lr_multipliers
        }


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """Outermost blocks that a network repeats: transformer layers, stages or residual blocks.

    They are the members of lists and sequences whose members are all of one class with submodules:
    ``layers`` of a language model, ``blocks`` of a ViT, ``stages`` of a ConvNeXt, ``layer1`` … of a
    ResNet.
    """
    return list(_walk_blocks(network))


def _walk_blocks(module: nn.Module) -> Iterator[nn.Module]:
    members = list(module.children())
    is_list = isinstance(module, nn.Sequential | nn.ModuleList)
    is_repeated = len({type(member) for member in members}) == 1 and any(members[0].children())
    if is_list and is_repeated:
        yield from members
        return
    for member in members:
        yield from _walk_blocks(member)


def _has_vision(policy: nn.Module) -> bool:
    return cast(Any, policy).encoder.vision is not None


def _network(policy: nn.Module, part: str) -> nn.Module:
    return policy.get_submodule(NETWORKS[part])


def _eval_mode(network: nn.Module) -> None:
    """Evaluation mode, except for the flag by which layers with checkpointing recompute."""
    network.eval()
    for module in network.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


def _checkpoint_vision(backbone: nn.Module) -> None:
    # A wrapper that reads one stage of a transformer holds it as a submodule.
    supporting = [net for net in backbone.modules() if hasattr(net, "set_grad_checkpointing")]
    try:
        cast(Any, supporting[0]).set_grad_checkpointing(True)
    except (IndexError, AssertionError) as error:
        raise ValueError(
            "fine_tuning.gradient_checkpointing: expected a timm backbone that supports it, got "
            f"{type(backbone).__name__}. Leave the option off, or choose another backbone."
        ) from error


def _compile_blocks(network: nn.Module, backend: str, part: str) -> None:
    blocks = repeated_blocks(network)
    if not blocks:
        raise ValueError(
            f"fine_tuning.compile: expected repeated blocks in {part}, got none in "
            f"{type(network).__name__}. Set compile to null, or choose another network."
        )
    # The sizes of a vision network are few and known, but differ between its stages: inductor fails
    # on a convolution of any size. Prefixes have many lengths.
    dynamic = False if part == "vision" else None
    for block in blocks:
        block.compile(backend=backend, dynamic=dynamic)


def _compile_through_recomputation() -> None:
    """Let a graph contain layers that are recomputed, and leave keys and values behind only once.

    PyTorch otherwise compiles nothing of the language model; nor do versions without this setting.
    """
    config: Any = import_module("torch._dynamo.config")
    if hasattr(config, "skip_fwd_side_effects_in_bwd_under_checkpoint"):
        config.skip_fwd_side_effects_in_bwd_under_checkpoint = True


def _add_adapters(network: nn.Module, rank: int, part: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(
            f"fine_tuning.lora[{part!r}] needs peft: pip install 'e0-lightning[finetune]'."
        ) from error
    # A layer without gradient, at the end of a language model's last layer, needs no adapter.
    trainable = {
        name: module
        for name, module in network.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
        and cast(nn.Parameter, module.weight).requires_grad
    }
    linear = [name for name, module in trainable.items() if isinstance(module, nn.Linear)]
    convolutions = [
        name
        for name, module in trainable.items()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    ]
    if not (linear or convolutions):
        raise ValueError(
            f"fine_tuning.lora[{part!r}]: expected linear or ungrouped convolutional layers, got "
            f"none in {type(network).__name__}. Train the part without adapters."
        )
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=linear or convolutions)
    inject_adapter_in_model(config, network)
