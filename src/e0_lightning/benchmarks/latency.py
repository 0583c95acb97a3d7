"""How long a training step and a decision take, by part, beside what the machine allows."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from e0_lightning.benchmarks.memory import random_batch, train
from e0_lightning.policies.base import Policy


def benchmark_policy(policy: Policy, views: list[str], batch_size: int) -> str:
    """Time a training step and the parts of a decision.

    The floor of a part is the longer of its operations at the rate of a large product of matrices
    and its weights at the rate of a large copy, both measured on the same machine.

    Args:
        policy: On the device to be measured; in bf16 on a GPU.
        views: Cameras.
        batch_size: Of the training step; decisions are timed for one observation.

    Returns:
        A table in Markdown.
    """
    operations, moved = machine_rates(policy.device)
    rows = ["| what | ms | floor, ms | GFLOP |", "| --- | --- | --- | --- |"]
    for name, (work, weights) in decisions(policy, views).items():
        seconds, flops = timed(work, policy.device), counted(work)
        size = 2 if policy.device.type == "cuda" else 4
        floor = max(flops / operations, weights * size / moved)
        rows.append(f"| {name} | {seconds * 1e3:.2f} | {floor * 1e3:.2f} | {flops / 1e9:.2f} |")
    batch = random_batch(policy, views, batch_size)
    configured: dict[str, Any] = policy.optimizer.configure(policy.parameters(), 10)
    optimizer = configured["optimizer"]

    def step() -> None:
        train(policy, batch, optimizer)

    seconds, flops = timed(step, policy.device), counted(step)
    rows.append(
        f"| training step, batch {batch_size} | {seconds * 1e3:.2f} | "
        f"{flops / operations * 1e3:.2f} | {flops / 1e9:.2f} |"
    )
    return "\n".join(rows)


def decisions(policy: Policy, views: list[str]) -> dict[str, tuple[Callable[[], object], int]]:
    """Parts of a decision for one observation, each with the weights that it reads."""
    policy.eval()
    batch = random_batch(policy, views, 1)
    encoder, device = policy.encoder, policy.device

    def half(work: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            policy.eval()
            is_gpu = device.type == "cuda"
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=is_gpu),
            ):
                return work()

        return run

    prefix = half(lambda: encoder(batch))()
    length = prefix.mask.shape[1]
    embedded = torch.zeros(1, length, encoder.language.width, device=device)
    vision = [parameter.numel() for parameter in encoder.vision.parameters()]
    language = [parameter.numel() for parameter in encoder.language.parameters()]
    embedding = encoder.language.model.get_input_embeddings().weight.numel()
    rest = sum(p.numel() for p in policy.parameters()) - sum(vision) - sum(language)
    return {
        f"vision, {len(views)} views": (
            half(lambda: [encoder.vision(batch["images"][view], view) for view in views]),
            sum(vision),
        ),
        f"language, {length} tokens": (
            half(lambda: encoder.language(embedded, prefix.mask)),
            sum(language) - embedding,
        ),
        "all passes of the expert": (half(lambda: policy.sample(prefix)), rest),
        "the whole decision": (
            half(lambda: policy.sample(encoder(batch))),
            sum(vision) + sum(language) - embedding + rest,
        ),
    }


def timed(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median seconds of a piece of work, after two times unmeasured."""

    def once() -> float:
        started = perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter() - started

    _ = once(), once()
    return sorted(once() for _ in range(repeats))[repeats // 2]


def counted(work: Callable[[], object]) -> int:
    """Floating-point operations of products in a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def machine_rates(device: torch.device) -> tuple[float, float]:
    """Operations and bytes a second that a large product and a large copy reach."""
    is_gpu = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if is_gpu else (512, torch.float32)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.zeros(2**28 if is_gpu else 2**22, device=device)
    target = torch.empty_like(source)
    product = timed(lambda: matrix @ matrix, device)
    copy = timed(lambda: target.copy_(source), device)
    # A copy reads and writes.
    return 2 * side**3 / product, 2 * source.numel() * source.element_size() / copy
