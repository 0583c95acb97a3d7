"""Demonstrations in HDF5 files of any layout, read by a key map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import h5py
import numpy as np

from e0_lightning.data.formats.base import Array, DemoReader, Floats, Views
from e0_lightning.data.formats.demo_keys import DemoKeys, Part
from e0_lightning.data.formats.frames import Frames, flip, frame_size
from e0_lightning.data.formats.lookup import describe_nearest, expand, sort_by_number
from e0_lightning.data.formats.stored_frames import StoredFrames
from e0_lightning.data.formats.video import BLOCK, Video
from e0_lightning.key_map import KeyMap
from e0_lightning.types import PolicySpec, ViewSize

Rows = range | np.ndarray[Any, np.dtype[np.int64]]

WHOLE_FILE = "demo"
"""Name of the demonstration in files that hold one."""


class MappedReader(DemoReader):
    """Reads the demonstrations of a file from where a key map says that they are.

    Steps are those rows that have an observation and, ``lag`` rows later, an action.

    Args:
        path: Local path or fsspec URL.
        views: Cameras to read; all that the key map finds if None.
        state: State parts to read; all that the key map finds if None.
        key_map: Where the parts are.
    """

    def __init__(
        self,
        path: str,
        views: Views | None,
        state: Sequence[str] | None,
        key_map: KeyMap,
    ) -> None:
        super().__init__(path, views, state)
        self.key_map = key_map
        self.format = self.key_map.name
        self.control_mode = self.key_map.control_mode
        self._demos: dict[str, DemoKeys] = {}
        self._steps: dict[str, Rows] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        kind, arguments, state = super().__reduce__()
        return kind, (*arguments, self.key_map), state

    @property
    def rate(self) -> float:
        """Steps per second by the key map."""
        return self.key_map.rate

    @property
    def is_failure(self) -> bool:
        """Whether the file's flag of success is false."""
        if self.key_map.file.demos or not self.key_map.file.success:
            return False
        return bool(self.failed())

    @property
    def task(self) -> str:
        """Name of the file; of its folder, where each demonstration has a file."""
        path = PurePosixPath(self.path)
        return path.stem if self.key_map.file.demos else path.parent.name

    @cached_property
    def names(self) -> list[str]:
        """Groups of the demonstrations in the order of their numbers, failures included."""
        pattern = self.key_map.file.demos
        if not pattern:
            return [WHOLE_FILE]
        found = [
            key for key in expand(self.file, pattern) if isinstance(self.file[key], h5py.Group)
        ]
        if not found:
            raise ValueError(
                f"{self.path}: expected demonstrations in groups {pattern} (file.demos of the key "
                f"map {self.key_map.name}), got {describe_nearest(self.file, [pattern])}."
            )
        return sort_by_number(found)

    def keys(self, demo: str) -> DemoKeys:
        """Where the parts of a demonstration are."""
        if demo not in self._demos:
            group = demo if self.key_map.file.demos else "/"
            self._demos[demo] = DemoKeys(self, group, self.key_map)
        return self._demos[demo]

    def failed(self) -> list[str]:
        """Demonstrations whose flag of success is false, or false at every step."""
        flags = {name: self.keys(name).flags(self.key_map.file.success) for name in self.names}
        return [name for name, flag in flags.items() if flag is not None and not flag.any()]

    def read_instruction(self, demo: str) -> str | None:
        """Text under the first of the key map's keys that has some."""
        return self.keys(demo).text(self.key_map.instruction)

    def lengths(self) -> dict[str, int]:
        """Every successful demonstration with the number of its steps."""
        failed = set(self.failed())
        lengths = {name: len(self.steps(name)) for name in self.names if name not in failed}
        if not lengths:
            raise ValueError(
                f"{self.path}: expected a demonstration that succeeded, got {len(failed)} failures "
                f"by {self.key_map.file.success}. Leave this file out."
            )
        return lengths

    def read_spec(self, demo: str) -> PolicySpec:
        """Headers of a demonstration."""
        sizes = {view: _size(source) for view, source in self.sources(demo).items()}
        return PolicySpec(
            views={view: ViewSize(*size) for view, size in sizes.items()},
            state={name: part.dims for name, part in self.keys(demo).state(self.state).items()},
            action_dim=sum(part.dims for part in self.keys(demo).actions().values()),
            control_mode=self.control_mode,
        )

    def read_actions(self, demo: str, start: int, stop: int) -> Array:
        """Action parts, concatenated."""
        rows, lag = self.steps(demo)[start:stop], self.key_map.file.lag
        later = range(rows.start + lag, rows.stop + lag) if isinstance(rows, range) else rows + lag
        parts = self.keys(demo).actions().items()
        return np.concatenate([self._numbers(name, part, later) for name, part in parts], axis=1)

    def read_states(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """State parts as they are stored, inverted ones restored."""
        rows, parts = self.steps(demo)[start:stop], self.keys(demo).state(self.state)
        return {name: self._numbers(name, part, rows) for name, part in parts.items()}

    def read_images(self, demo: str, start: int, stop: int) -> dict[str, Frames]:
        """Frames of each view, decoded, in RGB and upright."""
        rows, layout = self.steps(demo)[start:stop], self.key_map.file
        first, last = int(rows[0]), int(rows[-1]) + 1
        images: dict[str, Frames] = {}
        for view, source in self.sources(demo).items():
            frames: Frames
            if isinstance(source, Video):
                frames = source.read(first, last)
            else:
                frames = self.frames(source, first, last, layout.color)
            frames = flip(frames, layout.flips.get(view, layout.flips.get("*")))
            images[view] = _select(frames, rows)
        return images

    def read_intrinsics(self, demo: str) -> dict[str, Floats]:
        """Camera matrix of the first step, for views that the key map has one for."""
        return self.keys(demo).intrinsics(self.sources(demo))

    def sources(self, demo: str) -> dict[str, h5py.Dataset | Video]:
        """View to its frames: a data set in any encoding, or a video beside the file."""
        return self.keys(demo).images(self.views)

    def image_dataset(self, demo: str) -> dict[str, h5py.Dataset]:
        """View to the data set of its frames, for views in the file itself."""
        sources = self.sources(demo).items()
        return {view: source for view, source in sources if isinstance(source, h5py.Dataset)}

    def block_length(self, demo: str) -> int:
        """Steps that are stored or decoded together."""
        has_video = any(isinstance(source, Video) for source in self.sources(demo).values())
        return BLOCK if has_video else super().block_length(demo)

    def steps(self, demo: str) -> Rows:
        """Rows of the observations that an action goes with, kept ones only."""
        if demo not in self._steps:
            self._steps[demo] = self._find_steps(demo)
        return self._steps[demo]

    def _find_steps(self, demo: str) -> Rows:
        paired, layout = self._pair(demo), self.key_map.file
        rows: Rows = paired
        flags = self.keys(demo).flags(layout.keep)
        if flags is not None:
            actions = self.keys(demo).count_actions()
            if len(flags) != actions:
                raise ValueError(
                    f"{self.path}: {demo}/{layout.keep}: expected a flag for each of the {actions} "
                    f"actions, got {len(flags)}. Mend `keep` of the key map {self.key_map.name}."
                )
            kept = np.flatnonzero(flags)
            rows = kept[(kept >= paired.start) & (kept < paired.stop)]
        if not len(rows):
            raise ValueError(
                f"{self.path}: {demo}: expected at least one step with observation and action, got "
                f"none (lag {layout.lag}, keep {layout.keep or 'all'}). Leave this demonstration "
                "out."
            )
        return rows

    def _pair(self, demo: str) -> range:
        """Rows of the observations that have an action ``lag`` rows later."""
        keys, lag = self.keys(demo), self.key_map.file.lag
        actions = keys.count_actions()
        state = [part.dataset for part in keys.state(self.state).values()]
        observed = [*self.sources(demo).values(), *state]
        stored = [source for source in observed if isinstance(source, h5py.Dataset)]
        if unequal := [d for d in stored if len(d) not in (actions, actions + 1)]:
            raise ValueError(
                f"{self.path}: {unequal[0].name}: expected one row for each of the {actions} "
                f"actions of {demo}, got {len(unequal[0])}. Copy or record the file again."
            )
        # A video may end before the robot stops: its last frames were not written.
        rows = min(map(len, observed), default=actions)
        return range(max(0, -lag), min(rows, actions - lag))

    def _numbers(self, name: str, part: Part, rows: Rows) -> Array:
        """Numbers of a part at some rows, ``(n, dims)``."""
        first = int(rows[0])
        read = self.rows(part.dataset, first, int(rows[-1]) + 1)
        read = read if isinstance(rows, range) else read[rows - first]
        values = read.reshape(len(rows), -1)[:, part.part]
        return 1 - values.astype(np.float32) if name in self.key_map.file.inverted else values


def _select(frames: Frames, rows: Rows) -> Frames:
    """Frames of some rows, given those of all rows from the first to the last."""
    if isinstance(rows, range):
        return frames
    chosen = rows - rows[0]
    frames = frames.read() if isinstance(frames, StoredFrames) else frames
    if isinstance(frames, list):
        return [frames[i] for i in chosen]
    return np.asarray(frames[chosen])


def _size(source: h5py.Dataset | Video) -> tuple[int, int]:
    return source.size if isinstance(source, Video) else frame_size(source)
