"""The tree of an HDF5 file, shortened, and its data sets by path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

import h5py

from e0_lightning.data.formats.encoded import find_encoding
from e0_lightning.data.formats.hdf5 import members

MAX_ATTRIBUTES = 8
"""Attributes shown of a group."""

MAX_TEXT = 60
"""Characters shown of an attribute."""

MAX_DEPTH = 10
"""Levels of groups that are shown."""


def describe_tree(group: h5py.Group, depth: int = 0) -> Iterator[str]:
    """Lines that show groups, data sets, shapes, dtypes and attributes.

    Of members whose names differ in numbers only, such as ``demo_0`` and ``demo_1``, the first is
    shown.
    """
    indent = "  " * depth
    yield from (f"{indent}@ {line}" for line in _attributes(group))
    for names in _alike(group):
        found = members(group)[names[0]]
        if isinstance(found, h5py.Group):
            yield f"{indent}{names[0]}/"
            yield from describe_tree(found, depth + 1) if depth < MAX_DEPTH else ()
        else:
            encoding = find_encoding(found)
            note = f", {encoding}" if encoding else ""
            yield f"{indent}{names[0]}  {found.shape} {found.dtype}{note}"
        if len(names) > 1:
            yield f"{indent}… and {len(names) - 1} more like {names[0]}"


def find_datasets(group: h5py.Group, lead: str = "", width: int = 2) -> dict[str, h5py.Dataset]:
    """Data sets by their paths from a group.

    Args:
        group: Where to start.
        lead: Path of the group.
        width: Members that are entered, of those whose names differ in numbers only.
    """
    found: dict[str, h5py.Dataset] = {}
    for names in _alike(group):
        for name in names[:width]:
            member = group[name]
            if isinstance(member, h5py.Group):
                found |= find_datasets(member, f"{lead}{name}/", width)
            else:
                found[lead + name] = member
    return found


def _alike(group: h5py.Group) -> list[list[str]]:
    """Names of the members, those together that differ in numbers only."""
    names = sorted(members(group), key=_shape)
    return [list(alike) for _, alike in groupby(names, key=_shape)]


def _shape(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _attributes(group: h5py.Group) -> Iterator[str]:
    for index, (name, value) in enumerate(group.attrs.items()):
        if index == MAX_ATTRIBUTES:
            yield f"… and {len(group.attrs) - MAX_ATTRIBUTES} more attributes"
            return
        text = " ".join(str(value.decode() if isinstance(value, bytes) else value).split())
        yield f"{name}: {text[:MAX_TEXT]}" + "…" * (len(text) > MAX_TEXT)
