"""Versions of the files that are read, so that a change of one is noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from glob import glob

MATCHES = "matches://"
"""Beginning of a pattern among the files: its version is which files it matches."""

_recorded: ContextVar[dict[str, str] | None] = ContextVar("files that are read", default=None)


def version_of(path: str) -> str:
    """Size and time of change of a local file, or that it is missing."""
    if path.startswith(MATCHES):
        return ", ".join(sorted(glob(path.removeprefix(MATCHES)))) or "missing"
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size} bytes, changed at {status.st_mtime_ns} ns"


@contextmanager
def record_files(files: dict[str, str]) -> Iterator[None]:
    """Add the local files that are read meanwhile to ``files``, path to version."""
    token = _recorded.set(files)
    try:
        yield
    finally:
        _recorded.reset(token)


def note_file(path: str) -> None:
    """Say that a file is about to be read, or looked for, so that `record_files` records it.

    Its first version counts: what was read before a change has that version.
    """
    files = _recorded.get()
    if files is not None and "://" not in path.removeprefix(MATCHES):
        lead = MATCHES if path.startswith(MATCHES) else ""
        absolute = lead + os.path.abspath(path.removeprefix(MATCHES))
        if absolute not in files:
            files[absolute] = version_of(absolute)


def find_change(files: Mapping[str, str]) -> str | None:
    """The first of some recorded files that has another version now; None if there is none."""
    return next((path for path, version in files.items() if version_of(path) != version), None)


def check_unchanged(files: Mapping[str, str]) -> None:
    """Refuse to read on in files that have changed since something else was read of them.

    Raises:
        ValueError: If one has, with both versions.
    """
    if changed := find_change(files):
        raise ValueError(
            f"{changed.removeprefix(MATCHES)}: expected the file as it was when its headers were "
            f"read ({files[changed]}), got {version_of(changed)}. Start again to read it anew."
        )
