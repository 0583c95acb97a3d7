"""Pictures of a report: first frames, films, and plots, as text that a page embeds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from e0_lightning.data.formats.base import Floats
from e0_lightning.data.formats.stored_frames import Pixels
from e0_lightning.geometry import resize_frames
from e0_lightning.inspection.demo_set import DemoSet
from e0_lightning.types import ViewSize

Item = TypeVar("Item")

SHEET_DEMOS, SHEET_WIDTH = 16, 200
"""Demonstrations of a contact sheet, and the width of its frames in pixels."""

FILM_FRAMES, FILM_WIDTH = 100, 320
"""Most frames of a film, and its width in pixels."""

FILM_RATE = 20.0
"""Steps per second that a film shows where the rate is not known."""

PLOT_DEMOS, PLOT_POINTS = 8, 120
"""Demonstrations in a plot, and most points of each."""

PLOT_WIDTH, PLOT_HEIGHT = 240, 90
"""Size of a plot, in pixels."""


class Picture(NamedTuple):
    """An image or film."""

    caption: str
    data: str
    """Its data URI."""


class Plot(NamedTuple):
    """Curves of one dimension, in the coordinates of a plot."""

    name: str
    min: float
    max: float
    curves: list[str]
    """Points of SVG polylines, one for each demonstration."""


def first_frames(demo_set: DemoSet) -> dict[str, list[Picture]]:
    """The first frame of demonstrations, by view, spread over the set.

    Raises:
        ValueError: If one cannot be read.
    """
    sheets: dict[str, list[Picture]] = {view: [] for view in demo_set.spec.views}
    for demo in _spread(demo_set.demos, SHEET_DEMOS):
        for view, frames in demo.reader.images(demo.info.name, 0, 1).items():
            sheets[view].append(Picture(demo.label, _encode(_scale(frames, SHEET_WIDTH))))
        demo.reader.close()
    return sheets


def film(demo_set: DemoSet) -> list[Picture]:
    """A film for each view of the demonstration in the middle of the set.

    Raises:
        ValueError: If a frame cannot be read.
    """
    demo = demo_set.demos[len(demo_set.demos) // 2]
    stride = -(-demo.info.steps // FILM_FRAMES)
    shown: dict[str, list[Pixels]] = {view: [] for view in demo_set.spec.views}
    for start in range(0, demo.info.steps, demo.info.block_length):
        stop = min(start + demo.info.block_length, demo.info.steps)
        rows = range(-start % stride, stop - start, stride)
        if not rows:
            continue
        for view, frames in demo.reader.images(demo.info.name, start, stop).items():
            shown[view].append(_scale(frames[rows], FILM_WIDTH))
    demo.reader.close()
    interval = 1000 * stride / (demo_set.rate or FILM_RATE)
    caption = f"{demo.label}, {demo.info.steps} steps"
    return [
        Picture(f"{view}: {caption}", _encode(np.concatenate(frames), interval))
        for view, frames in shown.items()
    ]


def plot(demos: list[Floats], names: list[str]) -> list[Plot]:
    """Curves of each dimension over the steps of several demonstrations.

    Args:
        demos: Values of each demonstration, ``(T, D)``.
        names: Names of the D dimensions.
    """
    chosen = [np.asarray(values, dtype=float) for values in _spread(demos, PLOT_DEMOS)]
    longest = max(map(len, chosen), default=1)
    plots = []
    for dim, name in enumerate(names):
        columns = [values[:, dim] for values in chosen]
        low, high = min(c.min() for c in columns), max(c.max() for c in columns)
        curves = [_curve(column, longest, low, high) for column in columns]
        plots.append(Plot(name, float(low), float(high), curves))
    return plots


def _curve(values: Floats, longest: int, low: float, high: float) -> str:
    steps = np.unique(np.linspace(0, len(values) - 1, PLOT_POINTS).round().astype(int))
    x = steps / max(1, longest - 1) * PLOT_WIDTH
    share = (values[steps] - low) / (high - low) if high > low else np.full(len(steps), 0.5)
    y = (1 - share) * PLOT_HEIGHT
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of some items, at equal distances."""
    chosen = np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))
    return [items[index] for index in chosen] if items else []


def _scale(frames: Pixels, width: int) -> Pixels:
    """Frames ``(n, h, w, 3)``, not wider than ``width``."""
    rows, columns = frames.shape[1:3]
    scale = min(1, width / columns)
    return resize_frames(frames, ViewSize(max(1, round(rows * scale)), round(columns * scale)))


def _encode(frames: Pixels, interval: float = 0) -> str:
    """Frames ``(n, h, w, 3)`` as WebP; several are a film with ``interval`` ms between them."""
    from PIL import Image

    first, *others = [Image.fromarray(frame) for frame in np.ascontiguousarray(frames)]
    buffer = io.BytesIO()
    film = {"save_all": True, "append_images": others, "duration": round(interval), "loop": 0}
    first.save(buffer, "WEBP", quality=75, **(film if others else {}))
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
