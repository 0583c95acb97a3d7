"""A video of an episode, written as it is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e0_lightning.simulation.base import Frame

FPS = 20
"""Pictures a second; one a control step, and robots here are controlled at 20 Hz."""


class Video:
    """Encodes pictures to H.264 as they come; the outcome is added to the name at the end.

    Args:
        path: ``<name>.mp4``; the file will be ``<name>_<outcome>.mp4``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f".{path.name}")
        self._writer: Any = None

    def add(self, frame: Frame) -> None:
        """Append a picture."""
        if self._writer is None:
            import imageio.v2 as imageio

            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Players want even sides; 2 keeps every size of ours but odd ones as it is.
            self._writer = imageio.get_writer(
                self.part, format="FFMPEG", fps=FPS, macro_block_size=2
            )
        self._writer.append_data(frame)

    def finish(self, outcome: str) -> str | None:
        """Close the file and name it after the outcome; None if there was no picture."""
        if self._writer is None:
            return None
        self._writer.close()
        named = self.path.with_name(f"{self.path.stem}_{outcome}.mp4")
        self.part.replace(named)
        return str(named)
