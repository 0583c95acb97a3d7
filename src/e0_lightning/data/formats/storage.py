"""An HDF5 file that is opened when it is read, by each process for itself."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import h5py
from numpy.typing import NDArray

from e0_lightning.data.formats.encoded_frames import EncodedFrames
from e0_lightning.data.formats.frames import Color
from e0_lightning.data.formats.hdf5 import find, open_hdf5, read_chunks
from e0_lightning.data.formats.integrity import check_chunks, check_storage
from e0_lightning.data.formats.read_files import check_unchanged, record_files
from e0_lightning.data.formats.stored_frames import RawFrames, StoredFrames, locate_frames

OPEN_MEMBERS = 512
"""Data sets and groups of a file that stay open, about 30 KB each: opening takes 0.2 ms."""


class Storage:
    """Checks what is in a file before it is read, and keeps open what was read last.

    Args:
        path: Local path, or a URL that fsspec reads.
        files: Versions of the files that were read so far; opening is recorded there.
    """

    def __init__(self, path: str, files: dict[str, str]) -> None:
        self.path = path
        self.files = files
        self._file: h5py.File | None = None
        self._pid = 0
        self._descriptor: int | None = None
        self._checked: set[str] = set()
        self._members: OrderedDict[str, h5py.Dataset | h5py.Group] = OrderedDict()
        self._places: WeakKeyDictionary[h5py.Dataset, Sequence[int] | str | None] = (
            WeakKeyDictionary()
        )

    @property
    def file(self) -> h5py.File:
        """The open file of this process.

        Raises:
            ValueError: If it cannot be opened, or one of the files that were read has changed.
        """
        if self._file is None or self._pid != os.getpid():
            if self._file is not None:
                # HDF5 would return the handle that was inherited from before a fork.
                self._file.close()
            with record_files(self.files):
                file = open_hdf5(self.path)
            self.adopt(file)
        return self._file

    def adopt(self, file: h5py.File) -> None:
        """Read from a file that was opened before.

        Raises:
            ValueError: If one of the files that were read has changed.
        """
        try:
            check_unchanged(self.files)
        except ValueError:
            file.close()
            raise
        self._members.clear()
        self._file, self._pid, self._descriptor = file, os.getpid(), None

    @property
    def descriptor(self) -> int:
        """Number that the system gave the open file, which is a local one."""
        file = self.file
        if self._descriptor is None:
            self._descriptor = file.id.get_vfd_handle()
        return self._descriptor

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None
        self._members.clear()

    def find(self, key: str) -> h5py.Dataset | h5py.Group | None:
        """Find a member of the file and check that the values of a data set are in it.

        Raises:
            ValueError: If it cannot be read, or its values are missing.
        """
        file = self.file
        if key in self._members:
            self._members.move_to_end(key)
            return self._members[key]
        found = find(file, key)
        if isinstance(found, h5py.Dataset) and found.name not in self._checked:
            check_storage(found)
            self._checked.add(found.name)
        if found is not None:
            self._members[key] = found
            if len(self._members) > OPEN_MEMBERS:
                self._members.popitem(last=False)
        return found

    def check_chunks(self, dataset: h5py.Dataset) -> h5py.Dataset:
        """Check the chunk index of a data set before its first read in this process.

        Raises:
            ValueError: If it is damaged.
        """
        key = f"chunks of {dataset.name}"
        if key not in self._checked:
            check_chunks(dataset)
            self._checked.add(key)
        return dataset

    def rows(self, dataset: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
        """Read steps ``start`` to ``stop`` of a data set.

        Raises:
            ValueError: If they are damaged, naming the data set.
        """
        try:
            read = read_chunks(self.check_chunks(dataset), slice(start, stop))
        except OSError as error:
            raise ValueError(
                f"{self.path}: {dataset.name}, steps {start} to {stop} are damaged ({error}). Copy "
                "or collect the file again."
            ) from error
        return read

    def frames(
        self, dataset: h5py.Dataset, start: int, stop: int, color: Color
    ) -> StoredFrames | None:
        """Frames of steps ``start`` to ``stop`` that can be read one by one.

        None if they are in another file, or raw but not RGB of uint8 in one piece.
        """
        if dataset not in self._places:
            self._places[dataset] = self._locate(dataset)
        found = self._places[dataset]
        if isinstance(found, str):
            return EncodedFrames(self, found, range(start, stop), color)
        if found is None or color != "rgb":
            return None
        return RawFrames(self, found[start:stop], dataset.shape[1:])

    def _locate(self, dataset: h5py.Dataset) -> Sequence[int] | str | None:
        """Positions of raw frames in the file, bytes, or the path of encoded ones."""
        if dataset.file.filename != self.file.filename:
            return None
        checked, axes = self.check_chunks(dataset), len(dataset.shape)
        return dataset.name if axes < 3 else locate_frames(checked)
