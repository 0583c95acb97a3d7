"""Observations at the border of a policy: validation, and sampling by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from e0_lightning.random import Generator
from e0_lightning.types import ActionSample, History, Observation, PolicySpec

MAX_PIXEL = 1.001
"""Largest value of float images; interpolation may exceed 1 by a rounding error."""


def check_values(observation: Observation) -> Observation:
    """Refuse types, shapes and values that a policy would misread.

    Args:
        observation: As a caller of :meth:`Policy.act` passes it.

    Returns:
        The observation with a float32 state.

    Raises:
        ValueError: If the instruction is no list of sentences, the state is not ``(B, Q)`` finite
            numbers, an image is neither uint8 nor float in [0, 1], or batch sizes differ.
    """
    instruction, state, images = (
        observation["instruction"],
        observation["state"],
        observation["images"],
    )
    if isinstance(instruction, str) or not all(isinstance(text, str) for text in instruction):
        raise ValueError(
            f"instruction: expected a list of B sentences, got {instruction!r:.80}. "
            "Pass [sentence] for one observation."
        )
    states, frames = {"state": state}, dict(images)
    if "history" in observation:
        history = observation["history"]
        states["history.state"] = history["state"]
        frames |= {f"history.{view}": past for view, past in history["images"].items()}
    for name, tensor in (states | frames).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name}: expected a torch.Tensor, got {type(tensor).__name__}. "
                "Convert it with torch.as_tensor."
            )
    for name, values in states.items():
        shape = "(B, Q)" if name == "state" else "(B, m, Q)"
        is_float = values.is_floating_point()
        if values.ndim != shape.count(",") + 1 or not (is_float and values.isfinite().all()):
            raise ValueError(
                f"{name}: expected finite float numbers of shape {shape}, got "
                f"{_describe(values)}. Check the sensors of the robot."
            )
    for view, pixels in frames.items():
        is_float = pixels.is_floating_point()
        in_range = not is_float or bool(((pixels >= 0) & (pixels <= MAX_PIXEL)).all())
        if not (is_float or pixels.dtype == torch.uint8) or not in_range:
            raise ValueError(
                f"images[{view!r}]: expected uint8, or float in [0, 1], got {_describe(pixels)}. "
                "Convert frames with .to(torch.uint8)."
            )
    sizes = {"instruction": len(instruction)}
    sizes |= {name: len(tensor) for name, tensor in (states | frames).items()}
    for view, mask in observation.get("image_mask", {}).items():
        if view not in images or mask.dtype != torch.bool:
            raise ValueError(
                f"image_mask[{view!r}]: expected bool of a view among {list(images)}, got "
                f"{mask.dtype}."
            )
        sizes[f"image_mask[{view!r}]"] = len(mask)
    if "noise_seed" in observation:
        sizes["noise_seed"] = len(observation["noise_seed"])
    if len(set(sizes.values())) != 1 or len(state) == 0:
        raise ValueError(f"observation: expected one batch size B of at least 1, got {sizes}.")
    return cast(Observation, {**observation, "state": state.float()})


def sample_seeded(
    sample: Callable[[Observation, Generator], ActionSample], observation: Observation, by_row: bool
) -> ActionSample:
    """Sample with one generator per row, from ``noise_seed``.

    Args:
        sample: Samples action chunks for observations with given generators.
        observation: With ``noise_seed``.
        by_row: Compute rows one at a time, so that they are bit-identical in any batch: kernels
            round differently by batch size, and padding follows the longest instruction.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in observation["noise_seed"]]
    if not by_row:
        return sample(observation, generators)
    samples = [
        sample(select_row(observation, index), [generator])
        for index, generator in enumerate(generators)
    ]
    uncertainty = [each.uncertainty for each in samples if each.uncertainty is not None]
    return ActionSample(
        torch.cat([each.actions for each in samples]),
        torch.cat(uncertainty) if uncertainty else None,
    )


def example_observation(spec: PolicySpec, instruction: str = "do something") -> Observation:
    """One observation of a spec: black images and a state of zeros."""
    past = spec.n_obs_steps - 1
    images = {view: (3, size.height, size.width) for view, size in spec.views.items()}
    observation = Observation(
        images={view: torch.zeros(1, *shape, dtype=torch.uint8) for view, shape in images.items()},
        instruction=[instruction],
        state=torch.zeros(1, spec.state_dim),
    )
    if past:
        observation["history"] = History(
            images={
                view: torch.zeros(1, past, *shape, dtype=torch.uint8)
                for view, shape in images.items()
            },
            state=torch.zeros(1, past, spec.state_dim),
        )
    return observation


def select_row(value: Any, index: int) -> Any:
    """One row of an observation, as an observation of batch size 1."""
    if isinstance(value, dict):
        return {name: select_row(inner, index) for name, inner in value.items()}
    return value[index : index + 1]


def is_same(first: Any, second: Any) -> bool:
    """Whether two observations hold the same tensors, which are not compared by value."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(is_same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(is_same, first, second))
    return first is second


def _describe(tensor: Tensor) -> str:
    text = f"{tensor.dtype} of shape {tuple(tensor.shape)}".removeprefix("torch.")
    if not tensor.numel():
        return text
    if tensor.is_floating_point() and not tensor.isfinite().all():
        return f"{text} with NaN or infinity"
    return f"{text} from {tensor.min().item():g} to {tensor.max().item():g}"
