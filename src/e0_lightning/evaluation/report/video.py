"""A video of an episode, written as it is played."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from e0_lightning.envs.base import Frame

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


def representative_videos(
    episodes: Sequence[dict[str, Any]],
) -> dict[tuple[str, str], dict[str, Any]]:
    """The first success and the first failure of each task that was representative_videos.

    Args:
        episodes: As ``results.json`` has them.

    Returns:
        Task and outcome to episode, in order.
    """
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for episode in episodes:
        if episode.get("video") and Path(episode["video"]).is_file():
            outcome = "success" if episode["success"] else "failure"
            first.setdefault((episode["task"], outcome), episode)
    return dict(sorted(first.items()))


def show(writer: Any, tag: str, path: Path) -> None:
    """Add a video to TensorBoard, which plays GIF: every second picture, at half the rate.

    Args:
        writer: TensorBoard's ``SummaryWriter``.
        tag: Name to show it under.
        path: The mp4 file.
    """
    import imageio.v2 as imageio
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    reader: Any = imageio.get_reader(path)
    with reader:
        pictures = [Image.fromarray(frame) for frame in islice(reader.iter_data(), 0, None, 2)]
    buffer, (width, height) = io.BytesIO(), pictures[0].size
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=2000 // FPS, loop=0
    )
    image = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue()
    )
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), 0)
