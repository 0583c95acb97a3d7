"""Frames in a video file beside the HDF5 file, read in any order (extra ``video``)."""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Any

import fsspec
import numpy as np

from e0_lightning.data.formats.read_files import note_file
from e0_lightning.data.formats.stored_frames import Pixels

BLOCK = 16
"""Frames that are decoded together: about as many as are decoded in vain after a seek."""


class Video:
    """The frames of a video file, in the order in which they are shown.

    The position of every frame is taken from the container's packets, so that frame i is the same
    whichever frames were read before. Reading one decodes from the last keyframe before it.

    Args:
        path: Local path or fsspec URL.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the frames."""
        with self._open() as container:
            stream = container.streams.video[0]
            return stream.height, stream.width

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        with self._open() as container:
            stated = container.streams.video[0].frames
        return stated or len(self._times)

    def read(self, start: int, stop: int) -> Pixels:
        """Decode frames ``start`` to ``stop``, ``(n, h, w, 3)`` RGB.

        Raises:
            ValueError: If the file is damaged or has fewer frames.
        """
        times = self._times[start:stop]
        expected = set(times)
        frames: dict[int, Pixels] = {}
        keyframe = self._keyframes[bisect_right(self._keyframes, times[0]) - 1]
        try:
            with self._open() as container:
                stream = container.streams.video[0]
                container.seek(keyframe, stream=stream, backward=True)
                for frame in container.decode(stream):
                    if frame.pts in expected:
                        frames[frame.pts] = frame.to_ndarray(format="rgb24")
                    if len(frames) == len(expected):
                        break
        except self._av.FFmpegError as error:
            raise ValueError(self._damage(f"frames {start} to {stop}: {error}")) from error
        if missing := expected - set(frames):
            index = self._times.index(min(missing))
            raise ValueError(self._damage(f"frame {index} cannot be decoded"))
        return np.stack([frames[time] for time in times])

    @cached_property
    def _times(self) -> list[int]:
        """Presentation time of each frame, in units of the stream."""
        return sorted(time for time, _ in self._packets)

    @cached_property
    def _keyframes(self) -> list[int]:
        keys = sorted(time for time, is_keyframe in self._packets if is_keyframe)
        return keys or self._times[:1]

    @cached_property
    def _packets(self) -> list[tuple[int, bool]]:
        try:
            with self._open() as container:
                packets = [
                    (packet.pts, packet.is_keyframe)
                    for packet in container.demux(container.streams.video[0])
                    if packet.pts is not None and packet.size
                ]
        except self._av.FFmpegError as error:
            raise ValueError(self._damage(str(error))) from error
        if not packets:
            raise ValueError(self._damage("it has no frames"))
        return packets

    @property
    def _av(self) -> Any:
        try:
            import av
        except ImportError as error:
            raise ImportError(
                f"{self.path}: videos are read with PyAV, which is not installed. Install it with "
                "`pip install 'e0-lightning[video]'`."
            ) from error
        return av

    def _open(self) -> Any:
        note_file(self.path)
        try:
            source = fsspec.open(self.path, "rb").open() if "://" in self.path else self.path
            container = self._av.open(source)
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.path}: no such video. Copy it along with its HDF5 file."
            ) from error
        except (OSError, self._av.FFmpegError) as error:
            raise ValueError(self._damage(str(error))) from error
        if not container.streams.video:
            raise ValueError(self._damage("it has no video stream"))
        container.streams.video[0].thread_type = "NONE"  # workers have one core each
        return container

    def _damage(self, problem: str) -> str:
        return f"{self.path}: the video cannot be read ({problem}). Copy or record it again."
