"""Checks that the values of an HDF5 data set are there, before they are read.

HDF5 returns zeros for what was never written or cannot be found: black frames, actions of zero.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise, product
from math import prod
from typing import Any

import h5py

from e0_lightning.data.formats.hdf5 import check_source, find, open_hdf5

FILTERS = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32026: "blosc2",
}
"""Compression filters that HDF5 loads from plugins, by their registered number."""


MAX_NESTING = 8
"""Virtual data sets that refer to each other, before they count as a loop."""


def check_storage(dataset: h5py.Dataset, _depth: int = 0) -> None:
    """Refuse a data set whose values are not all in this file or its virtual sources.

    Reads headers only; `check_chunks` reads the chunk index.

    Raises:
        ValueError: If the values are in raw files beside the HDF5 file, a source of a virtual data
            set is missing, a compression filter is not installed, or something was never written.
    """
    if not dataset.shape or 0 in dataset.shape:
        return
    where = f"{dataset.file.filename}: {dataset.name}"
    if dataset.external:
        raise ValueError(
            f"{where} keeps its values in another file, {dataset.external[0][0]} (HDF5 external "
            "storage), which is not read. Copy the data into the HDF5 file."
        )
    if dataset.is_virtual:
        _check_virtual(dataset, where, _depth)
        return
    _check_type(dataset, where)
    _check_filters(dataset, where)
    if dataset.chunks is None:
        if dataset.id.get_storage_size() == 0:
            raise ValueError(f"{where}: its values were never written. Record the file again.")
        return
    try:
        expected, written = prod(_grid(dataset)), dataset.id.get_num_chunks()
    except RuntimeError as error:
        raise ValueError(
            f"{where}: its chunk index is damaged ({error}). Copy it again."
        ) from error
    if written != expected:
        raise ValueError(
            f"{where}: expected {expected} chunks of values, got {written}; the others were never "
            "written, or the file is damaged. Copy or record it again."
        )


def check_chunks(dataset: h5py.Dataset) -> None:
    """Refuse a chunk index that is damaged: wrong positions, sizes or overlapping addresses.

    Raises:
        ValueError: If it is.
    """
    if not dataset.shape or 0 in dataset.shape or dataset.chunks is None or dataset.is_virtual:
        return
    where = f"{dataset.file.filename}: {dataset.name}"
    chunks: list[Any] = []
    try:
        dataset.id.chunk_iter(chunks.append)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{where}: its chunk index is damaged ({error}). Copy it again."
        ) from error
    steps = zip(dataset.shape, dataset.chunks, strict=True)
    expected = set(product(*(range(0, size, step) for size, step in steps)))
    size = prod(dataset.chunks) * dataset.dtype.itemsize
    spans = sorted((chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks)
    problem = None
    if len(chunks) != len(expected) or {chunk.chunk_offset for chunk in chunks} != expected:
        problem = "chunks are missing or at impossible positions"
    elif any(end > start for (_, end), (start, _) in pairwise(spans)):
        problem = "chunks overlap"
    elif any(chunk.filter_mask and chunk.size < size for chunk in chunks):
        problem = "compressed chunks are marked as not compressed"
    if problem:
        raise ValueError(
            f"{where}: its chunk index is damaged ({problem}), and HDF5 would return zeros or "
            "other values. Copy or record the file again."
        )


def _grid(dataset: h5py.Dataset) -> list[int]:
    return [-(-size // step) for size, step in zip(dataset.shape, dataset.chunks, strict=True)]


def _check_type(dataset: h5py.Dataset, where: str) -> None:
    """Refuse numbers of a format that numpy has not: a bit of the header has changed."""
    if dataset.dtype.kind in "iuf" and dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype):
        raise ValueError(
            f"{where}: expected a number type of numpy's, got another one that is read as "
            f"{dataset.dtype}; the file may be damaged. Copy or record it again."
        )


def _check_filters(dataset: h5py.Dataset, where: str) -> None:
    settings = dataset.id.get_create_plist()
    codes = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if all(map(h5py.h5z.filter_avail, codes)):
        return
    if importlib.util.find_spec("hdf5plugin"):
        importlib.import_module("hdf5plugin")  # registers its filters
    for code in codes:
        if not h5py.h5z.filter_avail(code):
            name = FILTERS.get(code, "unknown to us")
            raise ValueError(
                f"{where} is compressed with filter {code} ({name}), which is not installed. "
                "Install it with `pip install hdf5plugin`, or write the file with gzip."
            )


def _check_virtual(dataset: h5py.Dataset, where: str, depth: int) -> None:
    mapped = 0
    for source in dataset.virtual_sources():
        mapped += source.vspace.get_select_npoints()
        if source.file_name == ".":
            there = _check_source_dataset(dataset.file, source.dset_name, depth)
        else:
            path = check_source(dataset.file.filename, source.file_name, where)
            with open_hdf5(path) as file:
                there = _check_source_dataset(file, source.dset_name, depth)
        if not there:
            raise ValueError(
                f"{where} is virtual and refers to {source.dset_name} in {source.file_name}, which "
                "has no such data set. Use the source file it was made with."
            )
    if mapped < prod(dataset.shape):
        raise ValueError(
            f"{where} is virtual, and its sources have {mapped} of its {prod(dataset.shape)} "
            "values. Make it again from all sources."
        )


def _check_source_dataset(file: h5py.File, name: str, depth: int) -> bool:
    found = find(file, "/" + name.lstrip("/"))
    if not isinstance(found, h5py.Dataset) or depth == MAX_NESTING:
        return False
    check_storage(found, depth + 1)
    check_chunks(found)
    return True
