"""Finished episodes of a running collection: one file each, merged at the end."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

LIBVER = "v110"
"""Oldest HDF5 version that reads the files. From it on, headers and chunk indices have checksums,
and attributes may exceed 64 kB."""


class EpisodeSource(NamedTuple):
    """Where an episode is stored."""

    path: Path
    group: str
    """Name of its HDF5 group, below the root group of the episodes."""


class EpisodeStore(ABC):
    """The folder ``<out>.parts``: one HDF5 file per demonstrated seed.

    A failed seed leaves ``seed_<n>.failed`` with the reason. Every file is written under another
    name, flushed to disk and renamed, so that a killed process loses at most the seeds in progress.

    Args:
        out: The demonstration file to write or extend.
        config: What all episodes of the file have in common, as plain values.

    Raises:
        ValueError: If `out` has another suffix than :attr:`suffix`, is damaged, holds episodes of
            another configuration, or is being written by another collection.
    """

    suffix: ClassVar[str]
    """Suffix of demonstration files."""
    root: ClassVar[str] = "/"
    """HDF5 group that holds the episodes."""
    group_prefix: ClassVar[str]
    """Name of an episode's group without its number; the file of a seed holds number 0."""

    def __init__(self, out: Path, config: dict[str, Any]) -> None:
        if out.suffix != self.suffix:
            raise ValueError(f"out: expected a file name that ends in {self.suffix}, got {out}.")
        # Worker processes write to the folder from working directories of their own.
        out = out.absolute()
        self.out, self.config = out, config
        self.folder = out.with_name(out.name + ".parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ValueError(
                f"{out}: another collection is writing to it; wait until it has ended."
            ) from error
        try:
            self._remove_unfinished()
            self.published = self._read_published() if out.exists() else {}
            """Seed to group name, of the episodes in `out`."""
            self._check_config()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _read_published(self) -> dict[int, str]:
        """Read seed and group name of every episode in `out`."""

    @abstractmethod
    def _read_config(self) -> dict[str, Any]:
        """Read the configuration of the episodes in `out`."""

    @abstractmethod
    def _write_metadata(self, merged: Path, sources: list[EpisodeSource]) -> None:
        """Complete a merged file, whose episode n was copied from ``sources[n]``."""

    def succeeded(self) -> dict[int, EpisodeSource]:
        """Return every demonstrated seed, in increasing order, with its episode."""
        parts = {
            _seed(path): EpisodeSource(path, f"{self.group_prefix}0")
            for path in self.folder.glob(f"seed_*{self.suffix}")
        }
        published = {seed: EpisodeSource(self.out, name) for seed, name in self.published.items()}
        return dict(sorted({**parts, **published}.items()))

    def failed(self) -> dict[int, str]:
        """Return every failed seed with the reason."""
        return {_seed(path): path.read_text() for path in self.folder.glob("seed_*.failed")}

    def untried(self) -> Iterator[int]:
        """Iterate, without end, over the seeds to try next.

        They lie above those of a published file, whose failures are no longer recorded.
        """
        tried = {*self.succeeded(), *self.failed()}
        first = max(self.published, default=-1) + 1
        return (seed for seed in count(first) if seed not in tried)

    def add(self, seed: int, source: Path) -> None:
        """Move the finished file of a seed into the store."""
        fsync_rename(source, self.folder / f"seed_{seed}{self.suffix}")

    def add_failure(self, seed: int, reason: str) -> None:
        """Record why a seed failed."""
        self._write(f"seed_{seed}.failed", reason)

    def publish(self) -> int:
        """Write all episodes to `out` in the order of their seeds.

        Returns:
            The number of episodes in `out`.
        """
        import h5py

        episodes = self.succeeded()
        if set(episodes) == set(self.published):
            return len(episodes)
        merged = self.folder / f"merged{self.suffix}"
        with h5py.File(merged, "w", libver=LIBVER) as target:
            group = target.require_group(self.root)
            for number, (path, name) in enumerate(episodes.values()):
                with h5py.File(path, "r") as source:
                    source[self.root].copy(name, group, f"{self.group_prefix}{number}")
        self._write_metadata(merged, list(episodes.values()))
        fsync_rename(merged, self.out)
        self.published = self._read_published()
        return len(episodes)

    def clear(self) -> None:
        """Remove the folder, once everything in it is published."""
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Release the lock, and remove the folder if nothing was tried."""
        if self.folder.exists() and not any(self.folder.glob("seed_*")):
            self.clear()
        self._lock.close()

    def _remove_unfinished(self) -> None:
        for path in self.folder.glob("unfinished_*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _check_config(self) -> None:
        part = self.folder / "config.json"
        known = []
        if self.published:
            known.append((self.out, self._read_config()))
        if part.exists():
            known.append((self.folder, load_json(part)))
        for path, config in known:
            for name, expected in self.config.items():
                if config.get(name) != expected:
                    raise ValueError(
                        f"{path}: expected demonstrations with {name} {expected}, got "
                        f"{config.get(name)}. Name another file in out, or move {self.out.name} "
                        f"and {self.folder.name} away."
                    )
        if not part.exists():
            self._write(part.name, json.dumps(self.config))

    def _write(self, name: str, text: str) -> None:
        path = self.folder / f"unfinished_{name}"
        path.write_text(text)
        fsync_rename(path, self.folder / name)


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON ({error}). Move it and its .h5 away.") from error


def fsync_rename(source: Path, target: Path) -> None:
    """Flush a file to disk, rename it, and flush the folder of the new name."""
    _fsync(source)
    os.replace(source, target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seed(path: Path) -> int:
    return int(path.stem.removeprefix("seed_"))
