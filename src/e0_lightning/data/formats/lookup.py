"""Values under the keys of a key map: data sets, attributes, JSON and CSV."""

from __future__ import annotations

import csv
import glob
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import fsspec
import h5py
import numpy as np

from e0_lightning.data.formats.hdf5 import find, members
from e0_lightning.data.formats.read_files import MATCHES, note_file, version_of
from e0_lightning.key_map import Key, parse_key

ATTRIBUTES = "attrs"
"""Name under which a key finds the attributes of a group."""

FILES_BESIDE = (".json", ".csv", ".txt")
"""Endings of a part of a key that is a file beside the HDF5 file."""

MAX_LISTED = 2000
"""Keys of a file that are compared with one that is missing."""

MAX_DEPTH = 8
"""Groups within groups that are searched for them."""


def look_up(group: h5py.Group, key: str) -> Any:
    """Find what is under a key.

    The path leads through groups and data sets, attributes (``attrs/task``), and the JSON in a
    string (``attrs/ep_meta/lang``).

    Args:
        group: Where to start; the root of its file if the key starts with a slash.
        key: A path without slice.

    Returns:
        A group, a data set, the value of an attribute or in JSON; None if there is none.

    Raises:
        ValueError: If a link leads nowhere, or text is no JSON.
    """
    found: Any = group.file if key.startswith("/") else group
    for name in filter(None, key.split("/")):
        if isinstance(found, h5py.Group):
            member = find(found, name)
            found = found.attrs if member is None and name == ATTRIBUTES else member
        elif isinstance(found, h5py.AttributeManager):
            found = found.get(name)
        else:
            found = _look_inside(found, name, f"{group.file.filename}: {key}")
        if found is None:
            return None
    return found


def look_up_beside(path: str, key: str) -> Any:
    """Find a value in a file beside the HDF5 file.

    ``../instructions/{stem}.json/seen/0`` leads into JSON, and ``task.txt`` to text. In a CSV, the
    row counts whose first column names the file or one of its folders; its last column is the
    value.

    Args:
        path: The HDF5 file.
        key: A key that :func:`is_beside`.

    Returns:
        The value; None if there is no such file or no such value in it.

    Raises:
        ValueError: If the file cannot be parsed.
    """
    names = key.split("/")
    last = next(i for i, name in enumerate(names) if name.endswith(FILES_BESIDE))
    source = path_beside(path, "/".join(names[: last + 1]))
    if source is None:
        return None
    note_file(source)
    found = _load_beside(source, "" if "://" in source else version_of(source))
    if source.endswith(".csv") and found is not None:
        location = PurePosixPath(path)
        parts = [location.stem, *reversed(location.parts[:-1])]
        return next((found[part] for part in parts if part in found), None)
    for name in names[last + 1 :]:
        found = None if found is None else _look_inside(found, name, source)
    return found


def path_beside(path: str, key: str) -> str | None:
    """Path of a file by a key relative to the folder of the HDF5 file.

    ``{stem}`` stands for the stem of the HDF5 file, other braces for the text under a key beside
    it: ``video/{meta_*.json/camera}.mp4``.

    Returns:
        The path, the first of those that match ``*``; None if there is no text for braces.
    """
    names = {"stem": PurePosixPath(path).stem}
    for nested in re.findall(r"\{([^{}]+)\}", key):
        text = names[nested] if nested in names else read_text(look_up_beside(path, nested))
        if text is None:
            return None
        key = key.replace(f"{{{nested}}}", text)
    folder, slash, _ = path.rpartition("/")
    found = folder + slash + key
    if "*" not in key:
        return found
    note_file(f"{MATCHES}{glob.escape(folder or '.')}/{key}")
    system, root = fsspec.core.url_to_fs(folder or ".")
    matches = sorted(system.glob(f"{root}/{key}"))
    return str(system.unstrip_protocol(matches[0])) if matches else None


def is_beside(key: str) -> bool:
    """Whether a key leads to a file beside the HDF5 file."""
    return any(name.endswith(FILES_BESIDE) for name in key.split("/"))


@lru_cache(maxsize=16)
def _load_beside(source: str, _version: str) -> Any:
    try:
        with fsspec.open(source, "r", encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: cannot be read ({error}).") from error
    if source.endswith(".csv"):
        return {row[0].strip(): row[-1].strip() for row in csv.reader(io.StringIO(text)) if row}
    return _parse_json(text, source) if source.endswith(".json") else text


def _look_inside(value: Any, name: str, where: str) -> Any:
    """Member of JSON, which a string holds or which is parsed already."""
    if isinstance(value, h5py.Dataset | str | bytes | np.ndarray | np.generic):
        text = read_text(value)
        if text is None:
            return None
        value = _parse_json(text, where)
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, list) and name.isdigit():
        return value[int(name)] if int(name) < len(value) else None
    return None


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected JSON, got text that is none ({error}).") from error


def read_text(value: Any) -> str | None:
    """Text of a string, or of a data set with one; None if it is none."""
    if isinstance(value, h5py.Dataset):
        value = value[()] if value.dtype.kind in "SO" and value.size == 1 else None
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 else None
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value.strip() or None if isinstance(value, str) else None


def expand(group: h5py.Group, pattern: str) -> dict[str, str]:
    """Paths that match a pattern, each with what its first ``*`` stands for.

    Args:
        group: Where the paths start; the root of its file if the pattern starts with a slash.
        pattern: A path with ``*`` in some of its parts.
    """
    start = group.file if pattern.startswith("/") else group
    lead = "/" if pattern.startswith("/") else ""
    return {lead + path: name for path, name in _expand(start, pattern.strip("/").split("/"))}


def _expand(group: Any, parts: list[str]) -> Iterator[tuple[str, str]]:
    name, *rest = parts
    if "*" in name:
        shape = re.escape(name).replace(r"\*", "(.*)", 1).replace(r"\*", ".*")
        found = {key: re.fullmatch(shape, key) for key in members(group)}
        matches = {key: match[1] for key, match in found.items() if match}
    else:
        matches = {name: ""} if name in members(group) else {}
    for key, star in matches.items():
        if not rest:
            yield key, star
            continue
        for path, inner in _expand(group[key], rest):
            yield f"{key}/{path}", star or inner


def describe_nearest(group: h5py.Group, keys: Iterable[str]) -> str:
    """The existing keys that are most like those that are missing."""
    names = [f"{ATTRIBUTES}/{name}" for name in group.attrs]
    names += islice(_walk(group), MAX_LISTED)
    nearest = [found for key in keys for found in get_close_matches(key, names, n=3, cutoff=0.4)]
    return ", ".join(dict.fromkeys(nearest or names[:8])) or "nothing"


def _walk(group: h5py.Group, lead: str = "") -> Iterator[str]:
    """Paths of the data sets in a group, no deeper than links may loop."""
    for name, member in members(group).items():
        path = f"{lead}{name}"
        if isinstance(member, h5py.Dataset):
            yield path
        elif path.count("/") < MAX_DEPTH:
            yield from _walk(member, f"{path}/")


def has_marks(file: h5py.File, marks: Mapping[str, Any]) -> bool:
    """Whether a file has certain keys with certain values.

    Args:
        file: The open file.
        marks: Keys to values; None for any. A key with a slice needs as many numbers.
    """
    return bool(marks) and all(_has_mark(file, parse_key(key), marks[key]) for key in marks)


def _has_mark(file: h5py.File, key: Key, value: Any) -> bool:
    beside = is_beside(key.path)
    found = look_up_beside(file.filename, key.path) if beside else look_up(file, key.path)
    if key.part.stop is not None:
        is_array = isinstance(found, h5py.Dataset) and bool(found.shape)
        return is_array and found.shape[-1] >= key.part.stop
    if found is None or value is None:
        return found is not None
    return bool(read_text(found) == value if isinstance(value, str) else found == value)


def sort_by_number(names: list[str]) -> list[str]:
    """Sort so that ``demo_2`` comes before ``demo_10``."""
    return sorted(
        names,
        key=lambda name: [
            int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)
        ],
    )
