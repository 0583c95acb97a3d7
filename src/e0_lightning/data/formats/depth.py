"""Depth images of demonstrations, in the formats that have them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from e0_lightning.data.formats.base import DemoReader, Floats
from e0_lightning.geometry import place
from e0_lightning.types import ViewSize


@runtime_checkable
class DepthReader(Protocol):
    """What a :class:`DemoReader` of a format with depth has besides."""

    def read_depth(self, demo: str, view: str, start: int, stop: int) -> Floats | None:
        """Depth of a view before the actions of steps ``start`` to ``stop``, as recorded.

        Returns:
            ``(n, height, width)`` along the optical axis, metres, 0 where unknown; None if the
            demonstration has none.
        """
        ...


def read_depth(reader: DemoReader, demo: str, view: str, start: int, stop: int) -> Floats:
    """Depth of a view's images, cropped and resized as they are.

    Args:
        reader: Reader of the file.
        demo: Name of the demonstration.
        view: Name of the view.
        start: First step.
        stop: Step after the last.

    Returns:
        ``(n, h, w)`` along the optical axis, metres; 0 where unknown, as in the padding of images.

    Raises:
        ValueError: If the format or the demonstration has no depth.
    """
    found = None
    if isinstance(reader, DepthReader):
        with reader.reading():
            found = reader.read_depth(demo, view, start, stop)
    if found is None:
        raise ValueError(
            f"{reader.path}: expected the depth of view {view!r} in {demo}, got none. Record it "
            "(`e0 collect maniskill --depth true`), or leave that view out of data.depth."
        )
    return resize_depth(found, reader.spec.views[view])


def resize_depth(depth: Floats, size: ViewSize) -> Floats:
    """Crop and resize depth as :func:`resize_frames` does images, but without mixing its values.

    Args:
        depth: ``(n, height, width)``.
        size: Size of the images, and the rule.

    Returns:
        ``(n, h, w)``; each pixel is the nearest of the crop, 0 in the padding.
    """
    at = place(size, *depth.shape[1:])
    rows = at.top + ((np.arange(at.rows) + 0.5) * at.height / at.rows).astype(int)
    columns = at.left + ((np.arange(at.columns) + 0.5) * at.width / at.columns).astype(int)
    resized = np.zeros((len(depth), size.height, size.width), np.float32)
    within = slice(at.above, at.above + at.rows), slice(at.before, at.before + at.columns)
    resized[:, *within] = depth[:, rows[:, None], columns]
    return resized
