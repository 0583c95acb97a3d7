"""The data sets of one demonstration that a key map names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from e0_lightning.data.formats.base import DemoReader, Floats
from e0_lightning.data.formats.frames import is_colored, is_vector
from e0_lightning.data.formats.lookup import (
    describe_nearest,
    expand,
    is_beside,
    look_up,
    look_up_beside,
    path_beside,
    read_text,
)
from e0_lightning.data.formats.video import Video
from e0_lightning.key_map import Key, KeyMap, Keys, as_list, keys_for, parse_key

VIDEO = ".mp4"
"""Ending of a key that is a video beside the HDF5 file."""


class Part(NamedTuple):
    """Numbers of each step in a data set."""

    dataset: h5py.Dataset
    part: slice
    """Those that are used."""
    dims: int
    """How many these are."""


class DemoKeys:
    """Finds the parts of a demonstration by a key map.

    Args:
        reader: Reader of the file.
        group: Path of the demonstration in it.
        key_map: Where its parts are.
    """

    def __init__(self, reader: DemoReader, group: str, key_map: KeyMap) -> None:
        self.reader = reader
        self.path = group
        self.key_map = key_map
        self._found: dict[tuple[str, str], Key] = {}
        self._videos: dict[str, Video | None] = {}

    @property
    def group(self) -> h5py.Group:
        """The demonstration in the open file."""
        return self.reader.file[self.path]

    def images(self, views: Sequence[str] | None) -> dict[str, h5py.Dataset | Video]:
        """View to its frames; all views of the key map if None.

        Raises:
            ValueError: If one is missing.
        """
        mapping = self.key_map.images
        if views is None:
            views = self._names(mapping, is_colored)
        return {view: self._image(view) for view in views}

    def state(self, names: Sequence[str] | None) -> dict[str, Part]:
        """State part to its numbers; all parts of the key map if None.

        Raises:
            ValueError: If one is missing or has no numbers.
        """
        mapping = _by_name(self.key_map.state, "state")
        if names is None:
            rows = self.count_actions()
            names = self._names(
                mapping, lambda found: is_vector(found, rows) or is_vector(found, rows + 1)
            )
        return {name: self._part(mapping, name, "state part") for name in names}

    def actions(self) -> dict[str, Part]:
        """Action part to its numbers.

        Raises:
            ValueError: If one is missing or has no numbers.
        """
        mapping = _by_name(self.key_map.actions, "actions")
        return {name: self._part(mapping, name, "action part") for name in mapping}

    def count_actions(self) -> int:
        """Rows of the actions.

        Raises:
            ValueError: If the key map has no actions, or parts differ in length.
        """
        lengths = {name: len(part.dataset) for name, part in self.actions().items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"{self.reader.path}: expected actions, their parts of one length, got "
                f"{lengths or 'none'}. Mend `actions` of the key map {self.key_map.name}."
            )
        return next(iter(lengths.values()))

    def intrinsics(self, views: Iterable[str]) -> dict[str, Floats]:
        """View to the camera matrix ``(3, 3)`` of the first step, where the key map has a key.

        Raises:
            ValueError: If one is missing.
        """
        mapping, found = self.key_map.intrinsics, {}
        for view in views:
            if view in mapping or "*" in mapping:
                matrix, _ = self._dataset(mapping, view, "intrinsics")
                first = matrix[:1] if matrix.ndim == 3 else matrix[()]
                found[view] = first.reshape(3, 3).astype(np.float32)
        return found

    def flags(self, keys: Keys) -> Floats | None:
        """Flags under the first of several keys that exists, ``(n,)``; None if there are no keys.

        Raises:
            ValueError: If none exists.
        """
        if not keys:
            return None
        for key in as_list(keys):
            found = look_up(self.group, key)
            if found is not None and not isinstance(found, h5py.Group):
                value = np.asarray(found[()] if isinstance(found, h5py.Dataset) else found)
                if value.dtype.kind not in "biuf":
                    raise ValueError(
                        f"{self.reader.path}: {key}: expected flags or numbers, got "
                        f"{value.dtype}. Mend the key map {self.key_map.name}."
                    )
                return value.astype(np.float32).reshape(-1)
        raise self._missing("flags", as_list(keys))

    def text(self, keys: Keys) -> str | None:
        """Text under the first of several keys that has some, in the file or beside it."""
        for key in as_list(keys):
            beside = is_beside(key)
            found = look_up_beside(self.reader.path, key) if beside else look_up(self.group, key)
            if text := read_text(found):
                return text
        return None

    def _names(self, mapping: Mapping[str, Keys], fits: Any) -> list[str]:
        """Names of a mapping, ``*`` replaced by what the demonstration has.

        Args:
            mapping: Names to keys.
            fits: Whether a data set is of the kind.
        """
        names = [name for name in mapping if name != "*"]
        for pattern in as_list(mapping.get("*", [])):
            found = expand(self.group, parse_key(pattern).path)
            names += [name for path, name in found.items() if fits(look_up(self.group, path))]
        return list(dict.fromkeys(names))

    def _image(self, view: str) -> h5py.Dataset | Video:
        keys = keys_for(self.key_map.images, view, "view")
        if any(key.endswith(VIDEO) for key in keys) and view not in self._videos:
            self._videos[view] = self._find_video(keys)
        return self._videos.get(view) or self._dataset(self.key_map.images, view, "view")[0]

    def _find_video(self, keys: list[str]) -> Video | None:
        """The video beside the file, unless a key before it leads to a data set."""
        for key in keys:
            if key.endswith(VIDEO):
                path = path_beside(self.reader.path, key)
                return None if path is None else Video(path)
            if isinstance(self.reader.find(self._absolute(key)), h5py.Dataset):
                return None
        return None

    def _part(self, mapping: Mapping[str, Keys], name: str, kind: str) -> Part:
        dataset, part = self._dataset(mapping, name, kind)
        size = int(np.prod(dataset.shape[1:], dtype=int))
        if not dataset.shape or dataset.dtype.kind not in "biuf" or (part.stop or 0) > size:
            raise ValueError(
                f"{self.reader.path}: {dataset.name}: expected {part.stop or 'some'} numbers for "
                f"each step as {kind} {name!r}, got {dataset.shape} of {dataset.dtype}. Mend the "
                f"key map {self.key_map.name}, or change `state`."
            )
        return Part(dataset, part, len(range(size)[part]))

    def _dataset(
        self, mapping: Mapping[str, Keys], name: str, kind: str
    ) -> tuple[h5py.Dataset, slice]:
        """The first data set that the key map names for a view or a part, and what of it."""
        if (kind, name) in self._found:  # following links takes longer than reading a row
            path, part = self._found[kind, name]
            found = self.reader.find(path)
            assert isinstance(found, h5py.Dataset)
            return found, part
        keys = [parse_key(key) for key in keys_for(mapping, name, kind)]
        for key in keys:
            found = self.reader.find(self._absolute(key.path))
            if isinstance(found, h5py.Dataset):
                self._found[kind, name] = Key(found.name, key.part)
                return found, key.part
        raise self._missing(f"the {kind} {name!r}", [key.path for key in keys])

    def _missing(self, what: str, keys: list[str]) -> ValueError:
        return ValueError(
            f"{self.reader.path}: {self.path.strip('/') or 'the file'}: expected {what} at "
            f"{' or '.join(keys)} (key map {self.key_map.name}), got nothing there. Nearest: "
            f"{describe_nearest(self.group, keys)}."
        )

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"/{self.path.strip('/')}/{path}"


def _by_name(keys: dict[str, Keys] | Keys, name: str) -> Mapping[str, Keys]:
    """Parts to keys; one part of this name where they are not divided."""
    if isinstance(keys, Mapping):
        return keys
    return {name: keys}
