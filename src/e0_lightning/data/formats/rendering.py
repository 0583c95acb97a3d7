"""How a simulator rendered the images of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from e0_lightning.types import RenderQuality

RENDER_QUALITY = "render_quality"
"""Where `e0 collect` writes it among the settings of an environment."""


def read_render_quality(settings: Mapping[str, Any], source: str) -> RenderQuality:
    """Look up the render quality among the settings of an environment.

    Args:
        settings: The settings; without the key, images are as the simulator renders by itself.
        source: Where the settings were read, for the error.

    Raises:
        ValueError: If there is no such quality.
    """
    found = settings.get(RENDER_QUALITY, "default")
    known = get_args(RenderQuality)
    if found not in known:
        raise ValueError(
            f"{source}: expected a {RENDER_QUALITY} among {', '.join(known)}, got {found!r}. "
            "Collect the demonstrations again, or correct it there."
        )
    quality: RenderQuality = found
    return quality
