"""Memory of a training step: estimated from the model, measured on a GPU."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from e0_lightning.policies.base import Policy
from e0_lightning.training.finetuning import PARTS, part_of
from e0_lightning.types import Batch, NormalizedBatch

GIB = 2**30


def count_parameters(policy: Policy) -> dict[str, tuple[int, int]]:
    """Return the number of parameters of each part: all, and the trained ones."""
    counts = dict.fromkeys(PARTS, (0, 0))
    for name, parameter in policy.named_parameters():
        total, trained = counts[part_of(name)]
        size = parameter.numel()
        counts[part_of(name)] = total + size, trained + size * parameter.requires_grad
    return counts


def estimate_memory(
    policy: Policy, batch: Batch, weight_averaging: bool, half_precision: bool
) -> dict[str, float]:
    """Estimate the bytes of a training step by use; computes nothing on the meta device.

    Args:
        policy: With fine-tuning applied, on any device.
        batch: On the same device, as of `random_batch`.
        weight_averaging: Whether averaged weights are kept too.
        half_precision: Whether activations are in half precision; weights are in single precision.

    Returns:
        Bytes of weights, gradients, AdamW's moments, averaged weights and stored activations.
    """
    counts = count_parameters(policy).values()
    total, trained = (sum(column) for column in zip(*counts, strict=True))
    return {
        "weights": 4.0 * total,
        "gradients": 4.0 * trained,
        "optimizer": 8.0 * trained,
        "averaged weights": 4.0 * total * weight_averaging,
        "activations": stored_activations(policy, batch) * (0.5 if half_precision else 1.0),
    }


def stored_activations(policy: Policy, batch: Batch) -> int:
    """Return the bytes that a forward pass stores for the backward pass, without weights."""
    weights = {_storage(parameter) for parameter in policy.parameters()}
    sizes: dict[int, int] = {}
    stored: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage not in weights:
            stored.append(tensor)  # so that the memory is not reused by another tensor
            sizes[storage] = max(sizes.get(storage, 0), tensor.numel() * tensor.element_size())
        return tensor

    policy.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute_loss(policy, batch)
    return sum(sizes.values())


def measure_memory(policy: Policy, batch: Batch) -> int:
    """Return the peak bytes on the GPU in two training steps with AdamW in bf16."""
    torch.cuda.reset_peak_memory_stats(policy.device)
    optimizer = cast(Any, policy.optimizer.configure(policy.parameters(), 2)["optimizer"])
    for _ in range(2):
        train_step(policy, batch, optimizer)
    return torch.cuda.max_memory_allocated(policy.device)


def train_step(policy: Policy, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    """Run one training step; in bf16 on a GPU."""
    policy.train()
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.device.type == "cuda"):
        loss = compute_loss(policy, batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def compute_loss(policy: Policy, batch: Batch) -> Tensor:
    """Return the loss of a batch of `random_batch`."""
    targets = NormalizedBatch(actions=batch["actions"], valid=batch["valid"])
    losses = policy.losses(targets, policy.encoder(batch))
    return torch.stack(list(losses.values())).sum()


def random_batch(policy: Policy, views: list[str], size: int) -> Batch:
    """Create a batch for a policy on its device; actions and state are normalized already.

    Args:
        policy: The policy.
        views: Cameras.
        size: Batch size B.
    """
    vision, device = policy.encoder.vision, policy.device
    images, horizon = {}, policy.actions.horizon
    if vision is not None:
        crops = [max(crop[:2]) + max(crop[2:]) for crop in vision.crop.values()]
        side = max([*vision.size, *crops])
        frames = torch.zeros(size, 3, side, side, dtype=torch.uint8, device=device)
        images = dict.fromkeys(views, frames)
    return Batch(
        images=images,
        instruction=["pick up the red cube and put it on the green one"] * size,
        state=torch.zeros(size, policy.encoder.state_dim, device=device),
        actions=torch.zeros(size, horizon, policy.actions.width, device=device),
        valid=torch.ones(size, horizon, dtype=torch.bool, device=device),
    )


def memory_table(policy: Policy, estimated: dict[str, float], measured: int | None) -> str:
    """Return tables in Markdown: parameters by part, and memory by use.

    Args:
        policy: With fine-tuning applied.
        estimated: Bytes by use, from `estimate_memory`.
        measured: Peak bytes, from `measure_memory`; None without a GPU.
    """
    counts = count_parameters(policy)
    total = sum(count for count, _ in counts.values())
    trained = sum(count for _, count in counts.values())
    peak = "needs a GPU" if measured is None else f"{measured / GIB:.3f}"
    lines = [
        "| part | parameters, M | trained, M |",
        "| --- | --- | --- |",
        *(f"| {part} | {a / 1e6:.2f} | {t / 1e6:.2f} |" for part, (a, t) in counts.items()),
        f"| all | {total / 1e6:.2f} | {trained / 1e6:.2f} ({trained / total:.1%}) |",
        "",
        "| memory of a training step | GiB |",
        "| --- | --- |",
        *(f"| {use} | {size / GIB:.3f} |" for use, size in estimated.items()),
        f"| estimated peak | {sum(estimated.values()) / GIB:.3f} |",
        f"| measured peak | {peak} |",
    ]
    return "\n".join(lines)


def _storage(tensor: Tensor) -> int:
    """Return an identifier of the storage, which works on the meta device too."""
    return int(tensor.untyped_storage()._cdata)
