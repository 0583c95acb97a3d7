"""Videos of episodes: recording, selection, and logging."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from e0_lightning.envs.base import Frame

FPS = 20
"""Frames per second: one per control step, at the 20 Hz of the simulated robots."""

MAX_WIDTH = 256
"""Width of recorded videos in pixels; larger frames are downscaled."""

GIF_WIDTH, GIF_STRIDE, GIF_FRAMES, GIF_COLORS = 128, 3, 60, 32
"""Size limits of videos in TensorBoard, which displays only GIF: width in pixels, smallest stride
in frames (3 gives 6.7 frames per second), number of frames, colours."""


class Video:
    """Encodes frames to H.264 as they arrive; the outcome is appended to the file name.

    Args:
        path: ``<name>.mp4``; the finished file is ``<name>_<outcome>.mp4``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Ranks that run the same episode must not write to the same file.
        self.part = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self._writer: Any = None

    def add(self, frame: Frame) -> None:
        """Append a frame."""
        if self._writer is None:
            import imageio.v2 as imageio

            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The codec requires even sizes.
            scale = f"scale='trunc(min({MAX_WIDTH},iw)/2)*2':-2"
            self._writer = imageio.get_writer(
                self.part,
                format="FFMPEG",
                fps=FPS,
                macro_block_size=1,
                output_params=["-vf", scale],
            )
        self._writer.append_data(frame)

    def finish(self, outcome: str) -> str | None:
        """Close the file and append the outcome to its name; None if there was no frame."""
        if self._writer is None:
            return None
        self._writer.close()
        path = self.path.with_name(f"{self.path.stem}_{outcome}.mp4")
        self.part.replace(path)
        return str(path)


def video_file(folder: Path, episode: dict[str, Any]) -> Path | None:
    """Video of an episode, if there is one inside the report's folder.

    A report may come from elsewhere, so no file outside of its folder is read, not through a
    symbolic link either.

    Args:
        folder: Folder of the report.
        episode: As in ``results.json``.
    """
    name = episode.get("video")
    if not isinstance(name, str) or not name.endswith(".mp4"):
        return None
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def representative_videos(
    folder: Path, episodes: Sequence[dict[str, Any]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """The first success and the first failure with a video, for each task.

    Args:
        folder: Folder of the report.
        episodes: As in ``results.json``.

    Returns:
        Task and outcome to episode, in order.
    """
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for episode in episodes:
        outcome = "success" if episode["success"] else "failure"
        name = (episode["task"], outcome)
        if name not in first and video_file(folder, episode) is not None:
            first[name] = episode
    return dict(sorted(first.items()))


def log_video(loggers: Iterable[Any], tag: str, path: Path, step: int) -> None:
    """Log a video to every logger that displays videos: TensorBoard, and those with `log_video`.

    Args:
        loggers: Lightning loggers.
        tag: Name of the video.
        path: The mp4 file.
        step: Training step.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            _add_gif(logger.experiment, tag, path, step)
        elif hasattr(logger, "log_video"):  # Weights & Biases
            logger.log_video(key=tag, videos=[str(path)], step=step)


def encode_gif(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Convert a video to a small animated GIF of the same duration; returns it and its size."""
    import imageio.v2 as imageio
    from PIL import Image

    reader: Any = imageio.get_reader(path)
    with reader:
        stride = max(GIF_STRIDE, -(-reader.count_frames() // GIF_FRAMES))
        frames = [Image.fromarray(frame) for frame in islice(reader.iter_data(), 0, None, stride)]
    for frame in frames:
        frame.thumbnail((GIF_WIDTH, GIF_WIDTH))
    # One palette and no dithering, so that only pixels that change are stored again.
    palette = frames[len(frames) // 2].quantize(GIF_COLORS)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer, duration = io.BytesIO(), 1000 * stride // FPS
    small[0].save(buffer, "GIF", save_all=True, append_images=small[1:], duration=duration, loop=0)
    return buffer.getvalue(), small[0].size


def _add_gif(writer: Any, tag: str, path: Path, step: int) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    gif, (width, height) = encode_gif(path)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
    writer._get_file_writer().add_summary(
        Summary(value=[Summary.Value(tag=tag, image=image)]), step
    )
