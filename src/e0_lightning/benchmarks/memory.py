"""What a training step keeps in memory: counted from the model, measured on a GPU."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from e0_lightning.policies.base import Policy
from e0_lightning.training.finetuning import PARTS, part_of
from e0_lightning.types import Batch

GIB = 2**30


def count_parameters(policy: Policy) -> dict[str, tuple[int, int]]:
    """Weights of each part: all, and those that are trained."""
    counts = dict.fromkeys(PARTS, (0, 0))
    for name, parameter in policy.named_parameters():
        total, trained = counts[part_of(name)]
        size = parameter.numel()
        counts[part_of(name)] = total + size, trained + size * parameter.requires_grad
    return counts


def estimate(policy: Policy, batch: Batch, averaged: bool, halved: bool) -> dict[str, float]:
    """Bytes of a training step, by what they hold; nothing is computed on the meta device.

    Args:
        policy: Prepared to train, on any device.
        batch: On the same device; actions normalized.
        averaged: Whether averaged weights are kept beside.
        halved: Whether activations are in half precision; weights are in single precision.

    Returns:
        Bytes of weights, gradients, AdamW's moments, averages and kept activations.
    """
    counts = count_parameters(policy).values()
    total, trained = (sum(column) for column in zip(*counts, strict=True))
    return {
        "weights": 4.0 * total,
        "gradients": 4.0 * trained,
        "optimizer": 8.0 * trained,
        "averages": 4.0 * total * averaged,
        "activations": kept_activations(policy, batch) * (0.5 if halved else 1.0),
    }


def kept_activations(policy: Policy, batch: Batch) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights not counted."""
    weights = {_storage(parameter) for parameter in policy.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage not in weights:
            held.append(tensor)  # so that no other tensor takes its place in memory
            kept[storage] = max(kept.get(storage, 0), tensor.numel() * tensor.element_size())
        return tensor

    policy.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(policy, batch)
    return sum(kept.values())


def measure(policy: Policy, batch: Batch) -> int:
    """Peak bytes on the GPU of two training steps with AdamW under bf16."""
    torch.cuda.reset_peak_memory_stats(policy.device)
    optimizer = cast(Any, policy.optimizer.configure(policy.parameters(), 2)["optimizer"])
    for _ in range(2):
        train(policy, batch, optimizer)
    return torch.cuda.max_memory_allocated(policy.device)


def train(policy: Policy, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    """One training step; in bf16 on a GPU."""
    policy.train()
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.device.type == "cuda"):
        total = loss(policy, batch)
    total.backward()
    optimizer.step()
    optimizer.zero_grad()


def loss(policy: Policy, batch: Batch) -> Tensor:
    """Loss of a batch whose actions and state are normalized already."""
    losses = policy.losses(batch, policy.encoder(batch))
    return torch.stack(list(losses.values())).sum()


def random_batch(policy: Policy, views: list[str], size: int) -> Batch:
    """A batch for a policy, on its device, its actions and state normalized.

    Args:
        policy: The policy.
        views: Cameras.
        size: Observations B.
    """
    vision, device = policy.encoder.vision, policy.device
    crops = [max(top, left) + side for top, left, side in vision.crop.values()]
    frame, horizon = max([vision.side, *crops]), policy.actions.horizon
    return Batch(
        images={
            view: torch.zeros(size, 3, frame, frame, dtype=torch.uint8, device=device)
            for view in views
        },
        instruction=["pick up the red cube and put it on the green one"] * size,
        state=torch.zeros(size, policy.encoder.state_dim, device=device),
        actions=torch.zeros(size, horizon, policy.actions.width, device=device),
        valid=torch.ones(size, horizon, dtype=torch.bool, device=device),
    )


def describe(policy: Policy, estimated: dict[str, float], measured: int | None) -> str:
    """A table of parameters by part and of memory by use."""
    counts = count_parameters(policy)
    total = sum(count for count, _ in counts.values())
    trained = sum(count for _, count in counts.values())
    lines = [
        "| part | parameters, M | trained, M |",
        "| --- | --- | --- |",
        *(f"| {part} | {a / 1e6:.2f} | {t / 1e6:.2f} |" for part, (a, t) in counts.items()),
        f"| all | {total / 1e6:.2f} | {trained / 1e6:.2f} ({trained / total:.1%}) |",
        "",
        "| memory of a step | GiB |",
        "| --- | --- |",
        *(f"| {use} | {size / GIB:.3f} |" for use, size in estimated.items()),
        f"| estimated peak | {sum(estimated.values()) / GIB:.3f} |",
    ]
    if measured is None:
        return "\n".join([*lines, "| measured peak | run this where there is a GPU |"])
    return "\n".join([*lines, f"| measured peak | {measured / GIB:.3f} |"])


def _storage(tensor: Tensor) -> int:
    """What tells storages apart, on the meta device as well."""
    return int(tensor.untyped_storage()._cdata)
