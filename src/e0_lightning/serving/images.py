"""Whatever a client calls an image, as the square uint8 frame that a policy expects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def square(pixels: Any, side: int, key: str) -> Tensor:
    """Bring one RGB image to the policy's format; the scene is never stretched.

    Args:
        pixels: ``(height, width, 3)`` or ``(3, height, width)``, uint8 or floats from 0 to 1;
            leading dimensions of one are dropped.
        side: Wanted side S, pixels; other images are resized to fit and padded with black.
        key: Where it was found, for messages.

    Returns:
        ``(3, S, S)`` uint8.

    Raises:
        ValueError: If it is no such image, or not finite.
    """
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"{key}: found a {type(pixels).__name__}, wanted an image array.")
    found = pixels.shape
    while pixels.ndim > 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        pixels = pixels.transpose(2, 0, 1)
    elif pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(
            f"{key}: found shape {found}, wanted one RGB image, (height, width, 3) or "
            "(3, height, width)."
        )
    if 0 in pixels.shape:
        raise ValueError(f"{key}: found shape {found}, wanted an image with pixels.")
    image = torch.from_numpy(np.array(_to_bytes(pixels, key), order="C"))
    return image if image.shape[1:] == (side, side) else _fit(image, side)


def _to_bytes(pixels: np.ndarray[Any, Any], key: str) -> np.ndarray[Any, Any]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise ValueError(f"{key}: found {pixels.dtype} pixels, wanted uint8, or floats in [0, 1].")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # also where they are not numbers
        raise ValueError(
            f"{key}: found float pixels from {low:g} to {high:g}, wanted 0 to 1. Send uint8 for "
            "0 to 255."
        )
    return np.asarray((pixels.astype(np.float32) * 255).round().astype(np.uint8))


def _fit(image: Tensor, side: int) -> Tensor:
    """Scale the longer edge to ``side`` and centre the rest on black."""
    height, width = image.shape[1:]
    longer = max(height, width)
    size = max(1, height * side // longer), max(1, width * side // longer)
    scaled = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    return F.pad(scaled, (left, side - size[1] - left, top, side - size[0] - top))
