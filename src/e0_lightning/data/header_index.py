"""Headers of many files, and results over them, kept beside them from one start to the next."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from e0_lightning.data.formats.base import DemoReader
from e0_lightning.data.formats.headers import Headers
from e0_lightning.data.formats.read_files import find_change

MIN_FILES = 64
"""Local files from which on an index is kept; the headers of fewer are read within a second."""

MAX_RESULTS = 32
"""Results that are kept, the latest ones."""


@dataclass(frozen=True)
class IndexEntry:
    """What is kept of one file.

    Args:
        files: Versions of all files that were read for it.
        detected: Name of the format that was detected; None if it was given.
        views: The views that the file has.
        headers: Answers of its reader, as plain values.
    """

    files: dict[str, str]
    detected: str | None
    views: list[str]
    headers: dict[str, Any]

    def restore(self, reader: DemoReader) -> None:
        """Give a new reader of the file the answers, and the versions that it is to read."""
        reader.headers = Headers.from_dict(self.headers)
        reader.files.update(self.files)


class HeaderIndex:
    """What readers answered from the headers of their files, in ``.e0_<hash>.index`` beside them.

    An entry holds as long as no file that was read for it changes in size or time of change; the
    index, for the same settings of the readers and version of this package. It is JSON behind a
    checksum. Without one, or with one that is damaged or cannot be read, headers are read anew.

    Args:
        settings: What headers depend on beside the files, as plain values; None keeps nothing.
        files: Paths, each with the index of its entry in the mixture. Local ones are kept, if there
            are many, in the common folder of those of the first entry.
    """

    def __init__(self, settings: Any, files: Sequence[tuple[int, str]]) -> None:
        local = [(entry, os.path.abspath(path)) for entry, path in files if "://" not in path]
        code = describe_code([HeaderIndex, Headers])
        self.path: str | None = None
        self._settings = digest([version("e0-lightning"), code, settings])
        self._readers: dict[str, tuple[DemoReader, str | None]] = {}
        self._entries: dict[str, Any] = {}
        self._results: dict[str, Any] = {}
        self._content = b""
        if settings is not None and len(local) >= MIN_FILES:
            folders = [os.path.dirname(path) for entry, path in local if entry == local[0][0]]
            name = f".e0_{digest(settings)[:16]}.index"
            self.path = os.path.join(os.path.commonpath(folders), name)
            self._load(self.path)

    def find(self, path: str) -> IndexEntry | None:
        """Entry of a file; None if it has none, or a file that was read for it has changed."""
        kept = self._entries.get(os.path.abspath(path))
        return None if kept is None or find_change(kept["files"]) else IndexEntry(**kept)

    def add(self, reader: DemoReader, detected: str | None) -> None:
        """Keep what a reader has answered whenever `save` is called.

        Args:
            reader: The reader.
            detected: Name of the format that was detected; None if it was given.
        """
        if "://" not in reader.path:
            self._readers[os.path.abspath(reader.path)] = reader, detected

    def result(self, what: Any, compute: Callable[[], Any]) -> Any:
        """Result of a computation over the files, that of an earlier start if there is one.

        Args:
            what: All that it depends on, the versions of the files included, as plain values.
            compute: Returns plain values.
        """
        if self.path is None:
            return compute()
        key = digest(what)
        if key not in self._results:
            self._results[key] = compute()
            self.save()
        return self._results[key]

    def save(self) -> None:
        """Write the index under another name and rename it, if there is something new in it."""
        if self.path is None:
            return
        entries = {
            path: {
                "files": reader.files,
                "detected": detected,
                "views": reader.views,
                "headers": reader.headers.as_dict(),
            }
            for path, (reader, detected) in self._readers.items()
        }
        results = dict(list(self._results.items())[-MAX_RESULTS:])
        content = json.dumps([self._settings, entries, results]).encode()
        if content == self._content:
            return
        self._content = content
        unfinished = f"{self.path}.{secrets.token_hex(4)}"
        try:
            with open(unfinished, "wb") as file:
                file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            os.replace(unfinished, self.path)
        except OSError as error:
            rank_zero_info(
                f"The headers of {len(entries)} files are read again at every start, because their "
                f"index cannot be written ({error}). Make its folder writable for a faster start."
            )
            self.path = None
            with suppress(OSError):
                os.remove(unfinished)

    def _load(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                checksum, _, content = file.read().partition(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            rank_zero_info(f"{path} cannot be read ({error}): headers are read again.")
            return
        if checksum != hashlib.sha256(content).hexdigest().encode():
            rank_zero_info(f"{path} is damaged: headers are read again.")
            return
        settings, entries, results = json.loads(content)
        if settings == self._settings:
            self._entries, self._results, self._content = entries, results, content


def digest(value: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def describe_code(classes: Iterable[type]) -> list[str] | None:
    """Names of classes and of their bases, with checksums of the modules that define them.

    Returns:
        One line for each; None if one is defined in no file, so that a change would go unnoticed.
    """
    bases = dict.fromkeys(base for kind in classes for base in kind.__mro__ if base is not object)
    try:
        return [
            f"{base.__qualname__} {digest(inspect.getsource(sys.modules[base.__module__]))}"
            for base in bases
        ]
    except (OSError, TypeError, KeyError):
        return None
