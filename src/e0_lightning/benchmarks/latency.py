"""Latency of a training step and of inference, by part, beside the machine's limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from e0_lightning.augment.spherical_warp import SphericalWarp
from e0_lightning.benchmarks.kernels import record_kernels
from e0_lightning.benchmarks.memory import random_batch, train_step
from e0_lightning.geometry import camera_matrix
from e0_lightning.policies.base import Policy


class Timing(NamedTuple):
    """Times of a part of inference, or of a training step, in seconds."""

    part: str
    seconds: float
    floor: float | None
    """Of its `kernels` alone, repeated on the same operands in the same run; None where it is not
    measured."""
    lower_bound: float
    """The longer of two times: its floating-point operations at the rate of a large matrix product,
    and the read of its weights, or of a warp's images, at the rate of a large copy. Products of few
    tokens reach neither rate."""
    flops: int
    attention: list[str]
    """Kernels of attention, empty where it is plain matrix products."""
    kernels: str = "matrix products and attention"


def measure_latency(policy: Policy, views: list[str], batch_size: int) -> list[Timing]:
    """Time the parts of inference, all of inference, a training step, and the warp of its images.

    Args:
        policy: On the device to be measured; computes in bf16 on a GPU.
        views: Cameras, whose images are warped in training.
        batch_size: Of the training step; inference is timed for one observation.
    """
    flop_rate, copy_rate = machine_rates(policy.device)
    timings = []
    for name, (run, num_weights) in inference_parts(policy, views).items():
        kernels = record_kernels(run)
        with torch.inference_mode():
            floor = median_seconds(kernels.replay, policy.device)
        seconds, flops = median_seconds(run, policy.device), count_flops(run)
        weight_bytes = num_weights * (2 if policy.device.type == "cuda" else 4)
        bound = max(flops / flop_rate, weight_bytes / copy_rate)
        timings.append(Timing(name, seconds, floor, bound, flops, kernels.attention or ["math"]))
    batch = random_batch(policy, views, batch_size)
    configured: dict[str, Any] = policy.optimizer.configure(policy.parameters(), 10)
    optimizer = configured["optimizer"]

    def step() -> None:
        train_step(policy, batch, optimizer)

    seconds, flops = median_seconds(step, policy.device), count_flops(step)
    name = f"training step, batch {batch_size}"
    timings.append(Timing(name, seconds, None, flops / flop_rate, flops, []))
    if batch["images"]:
        timings.append(time_warp(torch.cat(list(batch["images"].values())), copy_rate))
    return timings


def time_warp(images: Tensor, copy_rate: float) -> Timing:
    """Time the warp of uint8 images ``(B, 3, h, w)``, all at once, by a rotation each.

    Args:
        images: On the device to be measured.
        copy_rate: Bytes per second of a large copy there.
    """
    device, (height, width) = images.device, images.shape[-2:]
    warp = SphericalWarp()
    yaw, pitch = warp.sample(len(images), torch.Generator(device).manual_seed(0))
    matrices = torch.from_numpy(camera_matrix(60.0, height, width)).to(device)
    matrices = matrices.expand(len(images), 3, 3)
    source = images.float()
    grid = torch.rand(len(images), height, width, 2, device=device) * 2 - 1
    sample = partial(F.grid_sample, source, grid, padding_mode="border", align_corners=False)
    seconds = median_seconds(lambda: warp.warp(images, yaw, pitch, matrices), device)
    floor = median_seconds(sample, device)
    name = f"viewpoint warp, {len(images)} images"
    return Timing(name, seconds, floor, 2 * images.nbytes / copy_rate, 0, [], "bilinear sampling")


def latency_table(timings: list[Timing]) -> str:
    """Markdown table of times in milliseconds."""
    rows = [
        "| part | ms | floor, ms | ms / floor | lower bound, ms | GFLOP | attention |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for part, seconds, floor, bound, flops, attention, _ in timings:
        floors = ["", ""] if floor is None else [f"{floor * 1e3:.2f}", f"{seconds / floor:.2f}"]
        cells = [part, f"{seconds * 1e3:.2f}", *floors, f"{bound * 1e3:.2f}"]
        cells += [f"{flops / 1e9:.2f}", " and ".join(attention)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def inference_parts(
    policy: Policy, views: list[str]
) -> dict[str, tuple[Callable[[], object], int]]:
    """Return the parts of inference for one observation, each with the number of its weights."""
    policy.eval()
    batch = random_batch(policy, views, 1)
    encoder, device = policy.encoder, policy.device

    def mixed_precision(run: Callable[[], Any]) -> Callable[[], Any]:
        def inner() -> Any:
            policy.eval()
            is_gpu = device.type == "cuda"
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=is_gpu),
            ):
                return run()

        return inner

    encode = partial(encoder, batch, paired=policy.is_guided)
    prefix = mixed_precision(encode)()
    rows, length = prefix.mask.shape
    embedded = torch.zeros(rows, length, encoder.language.width, device=device)
    encode_view = encoder.vision
    vision, language = (
        sum(
            parameter.numel()
            for name, parameter in encoder.named_parameters()
            if name.startswith(part)
        )
        for part in ("vision.", "language.")
    )
    embedding = encoder.language.model.get_input_embeddings().weight.numel()
    total = sum(parameter.numel() for parameter in policy.parameters())
    return {
        f"vision, {len(views)} views": (
            mixed_precision(
                lambda: [
                    encode_view(batch["images"][view], view)
                    for view in views
                    if encode_view is not None
                ]
            ),
            vision,
        ),
        f"language, {length} tokens": (
            mixed_precision(lambda: encoder.language(embedded, prefix.mask)),
            language - embedding,
        ),
        "action expert, all steps": (
            mixed_precision(lambda: policy.sample(prefix)),
            total - vision - language,
        ),
        "inference": (
            mixed_precision(lambda: policy.sample(encode())),
            total - embedding,
        ),
    }


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Return the median seconds of a function, after two warm-up calls."""

    def measure() -> float:
        start = perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter() - start

    _ = measure(), measure()
    return sorted(measure() for _ in range(repeats))[repeats // 2]


def count_flops(run: Callable[[], object]) -> int:
    """Return the floating-point operations of matrix products and convolutions in a function."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def machine_rates(device: torch.device) -> tuple[float, float]:
    """Return the operations and bytes per second of a large matrix product and a large copy."""
    is_gpu = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if is_gpu else (512, torch.float32)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.zeros(2**28 if is_gpu else 2**22, device=device)
    target = torch.empty_like(source)
    product = median_seconds(lambda: matrix @ matrix, device)
    copy = median_seconds(lambda: target.copy_(source), device)
    # A copy reads and writes.
    return 2 * side**3 / product, 2 * source.numel() * source.element_size() / copy
