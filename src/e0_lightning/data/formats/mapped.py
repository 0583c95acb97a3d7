"""Demonstrations in HDF5 files of any layout, read by a key map."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from e0_lightning.data.formats.base import Array, DemoReader
from e0_lightning.data.formats.frames import Pixels, frame_size, is_colored, is_vector, to_rgb
from e0_lightning.data.formats.lookup import (
    describe_nearest,
    expand,
    is_beside,
    look_up,
    look_up_beside,
    read_text,
)
from e0_lightning.key_map import Flip, Key, KeyMap, Keys, as_list, keys_for, load_key_map, parse_key
from e0_lightning.types import PolicySpec

Rows = range | npt.NDArray[np.int64]

WHOLE_FILE = "demo"
"""Name of the demonstration in files that hold one."""


class Part(NamedTuple):
    """Numbers of each step in a data set."""

    dataset: h5py.Dataset
    part: slice
    """Those that are used."""
    dims: int
    """How many these are."""


class MappedReader(DemoReader):
    """Reads the demonstrations of a file from where a key map says that they are.

    Steps are those rows that have an observation and, ``lag`` rows later, an action.

    Args:
        path: Local path or fsspec URL.
        views: Cameras to read; all that the key map finds if None.
        state: State parts to read; all that the key map finds if None.
        key_map: Where the parts are; the class's own if None.
    """

    map_name: ClassVar[str] = "act"
    """Key map of the class."""

    def __init__(
        self,
        path: str,
        views: Sequence[str] | None = None,
        state: Sequence[str] | None = None,
        key_map: KeyMap | None = None,
    ) -> None:
        super().__init__(path, views, state)
        self.key_map = key_map or load_key_map(self.map_name)
        self.format = self.key_map.name
        self.control_mode = self.key_map.control_mode
        self.rate = self.key_map.rate
        self._kept: dict[str, Rows] = {}
        self._found: dict[tuple[str, str, str], Key] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.views, self.state, self.key_map)

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether the file has the marks of the class's key map."""
        return has_marks(file, load_key_map(cls.map_name))

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
            path for path in expand(self.file, pattern) if isinstance(self.file[path], h5py.Group)
        ]
        if not found:
            raise ValueError(
                f"{self.path}: expected demonstrations in groups {pattern} (file.demos of the key "
                f"map {self.key_map.name}), got {describe_nearest(self.file, pattern)}."
            )
        return sorted(found, key=_by_number)

    def failed(self) -> list[str]:
        """Demonstrations whose flag of success is false, or false at every step."""
        keys = as_list(self.key_map.file.success)
        flags = {name: self._first(name, keys) for name in self.names if keys}
        return [
            name
            for name, (_, flag) in flags.items()
            if flag is not None and not np.any(flag[()] if isinstance(flag, h5py.Dataset) else flag)
        ]

    def read_instruction(self, demo: str) -> str | None:
        """Text under the first of the key map's keys that has some."""
        for key in as_list(self.key_map.instruction):
            beside = is_beside(key)
            found = look_up_beside(self.path, key) if beside else look_up(self._group(demo), key)
            if text := read_text(found):
                return text
        return None

    def lengths(self) -> dict[str, int]:
        """Every successful demonstration with the number of its steps."""
        failed = set(self.failed())
        lengths = {name: len(self._steps(name)) for name in self.names if name not in failed}
        if not lengths:
            raise ValueError(
                f"{self.path}: expected a demonstration that succeeded, got {len(failed)} failures "
                f"by {self.key_map.file.success}. Leave this file out."
            )
        return lengths

    def read_spec(self, demo: str) -> PolicySpec:
        """Headers of a demonstration."""
        return PolicySpec(
            views={view: frame_size(frames) for view, frames in self.image_dataset(demo).items()},
            state={name: part.dims for name, part in self._state(demo).items()},
            action_dim=sum(part.dims for part in self._actions(demo).values()),
            control_mode=self.control_mode,
        )

    def read_actions(self, demo: str, start: int, stop: int) -> Array:
        """Action parts, concatenated."""
        rows = self._steps(demo)[start:stop]
        lag = self.key_map.file.lag
        later = range(rows.start + lag, rows.stop + lag) if isinstance(rows, range) else rows + lag
        parts = [self._numbers(name, part, later) for name, part in self._actions(demo).items()]
        return np.concatenate(parts, axis=1)

    def read_states(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """State parts as they are stored, inverted ones restored."""
        rows = self._steps(demo)[start:stop]
        return {name: self._numbers(name, part, rows) for name, part in self._state(demo).items()}

    def read_images(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """Frames of each view, decoded, in RGB and upright."""
        rows, layout = self._steps(demo)[start:stop], self.key_map.file
        images = {}
        for view, dataset in self.image_dataset(demo).items():
            frames = to_rgb(dataset, self._take(dataset, rows), int(rows[0]), layout.color)
            images[view] = _flip(frames, layout.flips.get(view))
        return images

    def image_dataset(self, demo: str) -> dict[str, h5py.Dataset]:
        """View to the data set of its frames, in any encoding."""
        names = self._names(demo, self.key_map.images) if self.views is None else self.views
        return {view: self._dataset(demo, self.key_map.images, view, "view")[0] for view in names}

    def _names(self, demo: str, mapping: Mapping[str, Keys], steps: int | None = None) -> list[str]:
        """Names that a key map gives, ``*`` replaced by what the demonstration has.

        Args:
            demo: The demonstration.
            mapping: Names to keys.
            steps: Rows of state parts; None for views.
        """
        names = [name for name in mapping if name != "*"]
        group = self._group(demo)
        for pattern in as_list(mapping.get("*", [])):
            found = {
                name: look_up(group, path)
                for path, name in expand(group, parse_key(pattern).path).items()
            }
            names += [
                name
                for name, member in found.items()
                if (is_colored(member) if steps is None else _is_part(member, steps))
            ]
        return list(dict.fromkeys(names))

    def _state(self, demo: str) -> dict[str, Part]:
        mapping = self.key_map.state
        names = self.state
        if names is None:
            names = self._names(demo, mapping, self._action_rows(demo))
        return {name: self._part(demo, mapping, name, "state part") for name in names}

    def _actions(self, demo: str) -> dict[str, Part]:
        keys = self.key_map.actions
        mapping = keys if isinstance(keys, Mapping) else {"actions": keys}
        return {name: self._part(demo, mapping, name, "action part") for name in mapping}

    def _action_rows(self, demo: str) -> int:
        lengths = {part.dataset.name: len(part.dataset) for part in self._actions(demo).values()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"{self.path}: expected action parts of one length, got {lengths or 'none'}. "
                "Mend the file or the key map."
            )
        return next(iter(lengths.values()))

    def _steps(self, demo: str) -> Rows:
        """Rows of the observations that an action goes with, kept ones only."""
        if demo not in self._kept:
            self._kept[demo] = self._find_steps(demo)
        return self._kept[demo]

    def _find_steps(self, demo: str) -> Rows:
        actions, layout = self._action_rows(demo), self.key_map.file
        read = [
            *self.image_dataset(demo).values(),
            *(p.dataset for p in self._state(demo).values()),
        ]
        if unequal := [d for d in read if len(d) not in (actions, actions + 1)]:
            raise ValueError(
                f"{self.path}: {unequal[0].name}: expected one row for each of the {actions} "
                f"actions of {demo}, got {len(unequal[0])}. Copy or record the file again."
            )
        observed = min(map(len, read), default=actions)
        rows: Rows = range(max(0, -layout.lag), min(observed, actions - layout.lag))
        key, flags = self._first(demo, as_list(layout.keep))
        if flags is not None:
            kept = np.asarray(flags[()]).reshape(-1).astype(bool)
            if len(kept) < len(rows):
                raise ValueError(
                    f"{self.path}: {key}: expected a flag for each of {actions} steps, got "
                    f"{len(kept)}. Copy or record the file again."
                )
            numbers = np.asarray(rows)
            rows = numbers[kept[numbers]]
        if not len(rows):
            raise ValueError(
                f"{self.path}: {demo}: expected at least one step with observation and action, got "
                f"none of {actions} rows (lag {layout.lag}). Leave this demonstration out."
            )
        return rows

    def _part(self, demo: str, mapping: Mapping[str, Keys], name: str, kind: str) -> Part:
        dataset, part = self._dataset(demo, mapping, name, kind)
        size = int(np.prod(dataset.shape[1:], dtype=int))
        if not dataset.shape or dataset.dtype.kind not in "biuf" or (part.stop or 0) > size:
            raise ValueError(
                f"{self.path}: {dataset.name}: expected numbers for each step as {kind} {name!r}, "
                f"{part.stop or 1} at least, got {dataset.shape} of {dataset.dtype}. Mend the key "
                f"map {self.key_map.name}, or change `state`."
            )
        return Part(dataset, part, len(range(size)[part]))

    def _dataset(
        self, demo: str, mapping: Mapping[str, Keys], name: str, kind: str
    ) -> tuple[h5py.Dataset, slice]:
        """The first data set that the key map names for a view or a part, and what of it."""
        if (demo, kind, name) in self._found:  # following links takes longer than reading a row
            key = self._found[demo, kind, name]
            return self.file[key.path], key.part
        keys = [parse_key(key) for key in keys_for(mapping, name, kind)]
        for key in keys:
            found = self.find(self._absolute(demo, key.path))
            if isinstance(found, h5py.Dataset):
                self._found[demo, kind, name] = Key(found.name, key.part)
                return found, key.part
        missing = keys[0].path
        raise ValueError(
            f"{self.path}: {demo}: expected the {kind} {name!r} at "
            f"{' or '.join(key.path for key in keys)} (key map {self.key_map.name}), got nothing "
            f"there. Nearest: {describe_nearest(self._group(demo), missing)}."
        )

    def _first(self, demo: str, keys: list[str]) -> tuple[str, Any]:
        """The first of several keys that has a value, and that value; None if none has."""
        for key in keys:
            found = look_up(self._group(demo), key)
            if found is not None and not isinstance(found, h5py.Group):
                return key, found
        return "", None

    def _group(self, demo: str) -> h5py.Group:
        return self.file if demo == WHOLE_FILE else self.file[demo]

    def _absolute(self, demo: str, path: str) -> str:
        return path if path.startswith("/") or demo == WHOLE_FILE else f"{demo}/{path}"

    def _numbers(self, name: str, part: Part, rows: Rows) -> Array:
        """Numbers of a part at some rows, ``(n, dims)``."""
        values = self._take(part.dataset, rows).reshape(len(rows), -1)[:, part.part]
        return 1 - values.astype(np.float32) if name in self.key_map.file.inverted else values

    def _take(self, dataset: h5py.Dataset, rows: Rows) -> Array:
        first, last = int(rows[0]), int(rows[-1])
        read = self.rows(dataset, first, last + 1)
        return read if isinstance(rows, range) else read[rows - first]


def _is_part(member: h5py.Dataset | h5py.Group, actions: int) -> bool:
    """Whether there is a vector before each action, and perhaps one after the last."""
    return is_vector(member, actions) or is_vector(member, actions + 1)


def has_marks(file: h5py.File, key_map: KeyMap) -> bool:
    """Whether a file has what a key map says that its files are known by."""
    marks = key_map.file.marks
    found = {key: look_up(file, key) for key in marks}
    return bool(marks) and all(
        found[key] is not None and (value is None or found[key] == value)
        for key, value in marks.items()
    )


def _flip(frames: Pixels | list[Pixels], flip: Flip | None) -> Any:
    """Turn frames upright that are stored upside down or mirrored."""
    if flip is None:
        return frames
    rows = slice(None, None, -1 if flip in ("vertical", "both") else 1)
    columns = slice(None, None, -1 if flip in ("horizontal", "both") else 1)
    if isinstance(frames, list):
        return [frame[rows, columns] for frame in frames]
    return frames[:, rows, columns]


def _by_number(name: str) -> list[str | int]:
    """Sort key that orders ``demo_2`` before ``demo_10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
