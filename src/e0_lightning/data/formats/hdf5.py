"""Opening HDF5 files, following their links, and decoding gzip chunks."""

from __future__ import annotations

import os
import stat
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import h5py
import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.read_files import note_file

NARROW = 4
"""Length of a last axis below which numpy copies its columns faster one by one."""

MAX_LINKS = 8
"""Soft links followed one after the other before they count as a loop."""


@contextmanager
def name_damage(path: str) -> Iterator[None]:
    """Turn errors of the HDF5 library into errors that name the file.

    Raises:
        ValueError: If reading fails.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError | RuntimeError | KeyError) and not _is_from_h5py(error):
            raise
        raise ValueError(
            f"{path}: reading failed ({type(error).__name__}: {error}); the file may be damaged. "
            "Copy or record it again."
        ) from error


def _is_from_h5py(error: Exception) -> bool:
    """Whether h5py raised an error: of a damaged header it raises any type."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith("h5py.")


def open_hdf5(path: str) -> h5py.File:
    """Open a local or remote HDF5 file for reading.

    Raises:
        ValueError: If there is no such file, or it is no regular file, empty, truncated or not
            HDF5.
    """
    try:
        if "://" in path:
            return h5py.File(fsspec.open(path, "rb").open(), "r")
        note_file(path)
        _check_regular(path)
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        target = f" (a link to {os.readlink(path)})" if os.path.islink(path) else ""
        tried = path if "://" in path else os.path.abspath(path)
        raise ValueError(
            f"{path}: no such file: {tried}{target}. Check the path, or make demonstrations with "
            "`e0 collect`."
        ) from error
    except OSError as error:
        if error.errno is not None:  # of the system or network; errors of HDF5 have no number
            raise ValueError(
                f"{path}: cannot be read ({error}). Check its permissions and the connection."
            ) from error
        kind = "a truncated HDF5 file" if "truncated" in str(error) else "no HDF5 file"
        raise ValueError(
            f"{path}: expected a complete HDF5 file of demonstrations, got {kind} ({error}). "
            "Copy or collect it again."
        ) from error


def _check_regular(path: str) -> None:
    """Refuse, without opening it, what would block or is no file of demonstrations."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ValueError(
            f"{path}: expected a file of demonstrations, got a folder. Name its files, such as "
            f"{os.path.join(path, '*.hdf5')}."
        )
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path}: expected a regular file of demonstrations, got a pipe, socket or device."
        )
    if os.path.getsize(path) == 0:
        raise ValueError(
            f"{path}: expected an HDF5 file of demonstrations, got an empty file (0 bytes). Copy "
            "or collect it again."
        )
    with open(path, "rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise ValueError(
                f"{path}: expected an HDF5 file of demonstrations, got a git-lfs pointer. "
                "Download it with `git lfs pull`."
            )


def find(group: h5py.Group, key: str, _depth: int = 0) -> h5py.Dataset | h5py.Group | None:
    """Find a member of a group, following links no further than the folder of the file.

    Args:
        group: Where to start; the root of its file if ``key`` starts with a slash.
        key: Path of the member.

    Returns:
        The member; None if there is none of this name.

    Raises:
        ValueError: If a link leads nowhere or out of the folder, or the member is damaged.
    """
    found = group.file if key.startswith("/") else group
    for name in filter(None, key.split("/")):
        link = found.get(name, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.SoftLink):
            member = find(found, link.path, _depth + 1) if _depth < MAX_LINKS else None
            problem = f"is a link to {link.path}, which does not exist"
        elif isinstance(link, h5py.ExternalLink):
            source = check_source(found.file.filename, link.filename, _place(found, name))
            member = found.get(name)
            problem = f"is a link to {link.path}, which {source} does not have"
        else:
            member, problem = _open_member(found, name), "is damaged"
        if member is None:
            raise ValueError(f"{_place(found, name)} {problem}. Copy or record the file again.")
        found = member
    return found


def _place(group: h5py.Group, name: str) -> str:
    return f"{group.file.filename}: {group.name.rstrip('/')}/{name}"


def _open_member(group: h5py.Group, name: str) -> h5py.Dataset | h5py.Group | None:
    try:
        return group[name]
    except (KeyError, OSError, RuntimeError):
        return None


def members(group: h5py.Dataset | h5py.Group | None) -> dict[str, h5py.Dataset | h5py.Group]:
    """Members of a group by name, without those that cannot be opened; none if it is no group."""
    found = {}
    for name in group if isinstance(group, h5py.Group) else ():
        try:
            member = find(group, name)
        except ValueError:
            continue
        if member is not None:
            found[name] = member
    return found


def check_source(filename: str, source: str, where: str) -> str:
    """Path of another file that an HDF5 file refers to.

    Args:
        filename: The HDF5 file.
        source: The other file as written there.
        where: What refers to it, for error messages.

    Raises:
        ValueError: If it is outside of the folder of the HDF5 file, or no regular file.
    """
    folder = os.path.dirname(os.path.abspath(filename))
    path = os.path.normpath(os.path.join(folder, source))
    note_file(path)
    if os.path.commonpath([folder, path]) != folder:
        raise ValueError(
            f"{where} refers to {path}; expected a file in {folder}, because files elsewhere are "
            "not read unasked. If you trust it, make a symbolic link in that folder and refer to "
            "the link."
        )
    if not os.path.isfile(path):
        problem = "is no regular file" if os.path.exists(path) else "does not exist"
        raise ValueError(
            f"{where} refers to {path}, which {problem}. Move that file back, or copy the data "
            "into one file."
        )
    return path


def read_chunks(dataset: h5py.Dataset, *selection: slice) -> NDArray[Any]:
    """Read ``dataset[selection]``, and refuse chunks that cannot be found.

    HDF5 returns zeros for chunks that its index does not lead to. It also copies single values
    where chunks are narrow along the last axis, and h5py makes the chunks of images one or two
    colours wide: numbers that are not compressed, or with gzip alone, are decoded here, in half the
    time.

    Args:
        dataset: A data set of any storage.
        selection: A slice ``start:stop`` of each of the first axes; the rest is read whole.

    Raises:
        ValueError: If a chunk is missing or cannot be decoded.
    """
    if dataset.chunks is None or dataset.is_virtual:
        return np.asarray(dataset[selection])
    whole = [slice(0, size) for size in dataset.shape[len(selection) :]]
    limits = [slice(*s.indices(size)) for s, size in zip(selection, dataset.shape, strict=False)]
    region = (*limits, *whole)
    filters = dataset.id.get_create_plist().get_nfilters()
    is_simple = filters == 0 or (dataset.compression == "gzip" and filters == 1)
    is_decoded = is_simple and dataset.dtype.kind in "biuf"
    values = np.empty([part.stop - part.start for part in region], dataset.dtype)
    chunks = dataset.chunks
    for part in dataset.iter_chunks(region):
        offset = tuple(s.start // size * size for s, size in zip(part, chunks, strict=True))
        if not is_decoded:
            _find_chunk(dataset, offset)
            continue
        target = tuple(_shift(s, into.start) for s, into in zip(part, region, strict=True))
        source = tuple(_shift(s, start) for s, start in zip(part, offset, strict=True))
        _copy(_decode_chunk(dataset, offset)[source], values[target])
    return values if is_decoded else np.asarray(dataset[selection])


def _copy(source: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy an array; where its last axis is narrow column by column, three times as fast."""
    if source.shape[-1] < NARROW:
        for column in range(source.shape[-1]):
            target[..., column] = source[..., column]
    else:
        target[...] = source


def _find_chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> None:
    """Check that HDF5 finds a chunk, without reading it."""
    try:
        problem = "" if dataset.id.get_chunk_info_by_coord(offset).size else "it is not stored"
    except (ValueError, OSError, RuntimeError) as error:
        problem = str(error)
    if problem:
        raise ValueError(_describe_lost_chunk(dataset, offset, problem))


def _describe_lost_chunk(dataset: h5py.Dataset, offset: tuple[int, ...], problem: object) -> str:
    return (
        f"{dataset.file.filename}: {dataset.name}: the chunk at {offset} cannot be found "
        f"({problem}). Copy or record the file again."
    )


def _decode_chunk(dataset: h5py.Dataset, offset: tuple[int, ...]) -> NDArray[Any]:
    try:
        stored, raw = dataset.id.read_direct_chunk(offset)
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(_describe_lost_chunk(dataset, offset, error)) from error
    try:
        # HDF5 stores a chunk as it is where gzip would make it longer.
        is_plain = stored or dataset.compression is None
        values = np.frombuffer(raw if is_plain else zlib.decompress(raw), dataset.dtype)
        return values.reshape(dataset.chunks)
    except (zlib.error, ValueError) as error:
        raise ValueError(
            f"{dataset.file.filename}: {dataset.name}: the chunk at {offset} cannot be decoded "
            f"({error}). Copy or record the file again."
        ) from error


def _shift(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)
