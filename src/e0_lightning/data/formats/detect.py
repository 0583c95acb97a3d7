"""Detection of the format of a demonstration file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from itertools import chain

import h5py

from e0_lightning.data.formats.base import DemoReader, Views
from e0_lightning.data.formats.hdf5 import name_damage, open_hdf5
from e0_lightning.data.formats.lookup import has_marks
from e0_lightning.data.formats.maniskill import ManiSkillReader
from e0_lightning.data.formats.mapped import MappedReader
from e0_lightning.data.formats.pusht import PushTReader
from e0_lightning.data.formats.read_files import record_files
from e0_lightning.data.formats.robomimic import RobomimicReader
from e0_lightning.data.formats.vlabench import VLABenchReader
from e0_lightning.key_map import KeyMap, load_key_map, shipped_names

READERS: tuple[type[DemoReader], ...] = (
    ManiSkillReader,
    PushTReader,
    RobomimicReader,
    VLABenchReader,
)
"""Readers of the formats that are detected, in the order of trial."""


class UnknownFormat(ValueError):
    """A file is HDF5, but has none of the known formats of demonstrations."""


def open_demos(
    path: str,
    views: Views | None = None,
    state: Sequence[str] | None = None,
    reader: type[DemoReader] | None = None,
    key_map: str | None = None,
    keep_open: bool = False,
) -> DemoReader:
    """Create the reader of a file of demonstrations.

    Args:
        path: Local path or fsspec URL.
        views: Cameras to read, with or without the sizes of their images; all if None.
        state: Names of the state parts to read; all if None.
        reader: Reader class; detected from the content of the file if None.
        key_map: Name or YAML file of a key map; detected, too, if None.
        keep_open: Whether a file that is opened to detect its format stays open, to be read next.

    Raises:
        UnknownFormat: If it has no known format.
        ValueError: If the file cannot be opened.
    """
    if key_map is not None or reader is not None:
        return _create(path, views, state, reader or MappedReader, key_map)
    files: dict[str, str] = {}
    with name_damage(path), record_files(files), ExitStack() as stack:
        file = stack.enter_context(open_hdf5(path))
        if (name := _find_format(file)) is not None:
            detected = open_detected(path, views, state, name)
            if keep_open:
                detected.files.update(files)
                detected.adopt(file)
                stack.pop_all()
            return detected
        found = ", ".join(list(file)[:5]) or "nothing"
    formats = ", ".join(known.format for known in READERS)
    raise UnknownFormat(
        f"{path}: expected a known format of demonstrations ({formats}; key maps "
        f"{', '.join(key_map.name for key_map in _marked())}), got {found} at the top of the file. "
        "For another one, write a key map, {path: …, key_map: mine.yaml}, or name a reader, "
        "{path: …, reader: my_module.MyReader}."
    )


def open_detected(
    path: str, views: Views | None, state: Sequence[str] | None, name: str
) -> DemoReader:
    """Create the reader of a file whose format was detected before, without opening it.

    Args:
        path: Local path or fsspec URL.
        views: Cameras to read, with or without the sizes of their images; all if None.
        state: Names of the state parts to read; all if None.
        name: What :func:`format_name` returned of its reader.
    """
    for known in READERS:
        if known.__name__ == name:
            return known(path, views, state)
    return MappedReader(path, views, state, load_key_map(name))


def format_name(reader: DemoReader) -> str:
    """Name of the format of a reader that was detected: of its class or its key map."""
    return reader.key_map.name if isinstance(reader, MappedReader) else type(reader).__name__


def _create(
    path: str,
    views: Views | None,
    state: Sequence[str] | None,
    reader: type[DemoReader],
    key_map: str | None,
) -> DemoReader:
    if issubclass(reader, MappedReader) and key_map is not None:
        return reader(path, views, state, load_key_map(key_map))
    if issubclass(reader, MappedReader) or key_map is not None:
        raise ValueError(
            f"{path}: expected a key_map with readers derived from MappedReader, and only with "
            f"them, got reader {reader.__name__} and key_map {key_map}."
        )
    return reader(path, views, state)


def _find_format(file: h5py.File) -> str | None:
    """The reader that can read a file, else the key map of whose marks it has the most, and all."""
    names = (known.__name__ for known in READERS if known.can_read(file))
    marked = (mapping.name for mapping in _marked() if has_marks(file, mapping.file.marks))
    return next(chain(names, marked), None)


@cache
def _marked() -> list[KeyMap]:
    """Key maps that are detected, those with the most marks first."""
    mappings = [load_key_map(name) for name in shipped_names()]
    marked = [mapping for mapping in mappings if mapping.file.marks]
    return sorted(marked, key=lambda mapping: -len(mapping.file.marks))
