"""The files of a mixture: entries, glob patterns, and files that are named twice."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import fsspec

from e0_lightning.data.formats.base import DemoReader, Views
from e0_lightning.data.formats.detect import READERS, format_name, open_demos, open_detected
from e0_lightning.data.formats.mapped import MappedReader
from e0_lightning.data.formats.read_files import note_file
from e0_lightning.data.header_index import HeaderIndex, describe_code
from e0_lightning.key_map import load_key_map, shipped_names

ENDINGS = (".h5", ".hdf5", ".hdf")
"""Endings of the files that a glob pattern is reduced to."""


@dataclass
class DemoSource:
    """One entry of a mixture.

    Args:
        path: A file, a glob pattern (with ``**`` and ``{a,b}``), or a URL that fsspec reads.
        weight: Share of the samples, relative to the weights of the other entries.
        instruction: Instruction that replaces those of the file.
        reader: Class that reads the files, such as ``my_module.MyReader``; detected if None.
        key_map: Name or YAML file of the key map that says where the parts of the files are;
            detected, too, if None.
        use_masks: Whether the file's own lists of demonstrations, ``mask/train`` and
            ``mask/valid``, decide what is trained on and what is held out. Otherwise, and where a
            file has none, `val_fraction` does.
    """

    path: str
    weight: float | None = None
    instruction: str | None = None
    reader: type[DemoReader] | None = None
    key_map: str | None = None
    use_masks: bool = True

    def open(
        self,
        path: str,
        views: Views | None = None,
        state: Sequence[str] | None = None,
        keep_open: bool = False,
    ) -> DemoReader:
        """Create the reader of one of the files; see :func:`open_demos`."""
        return open_demos(path, views, state, self.reader, self.key_map, keep_open)

    def same_settings(self, other: DemoSource) -> bool:
        """Whether a file has the same meaning in both entries."""
        own, others = (
            (each.weight, each.instruction, each.reader, each.key_map, each.use_masks)
            for each in (self, other)
        )
        return self.weight is None and own == others


def open_sources(
    sources: Sequence[DemoSource], views: Views, state: Sequence[str]
) -> tuple[list[tuple[int, DemoReader]], HeaderIndex]:
    """Create the readers of all files, each file once, with what their headers answer.

    Files are closed again. Where files differ in cameras, each is read for those views that it has.

    Returns:
        Readers, each with the index of its source, and the index of their headers.

    Raises:
        ValueError: If a pattern matches nothing, a file is in two entries that differ or cannot be
            read, or a view is in none of several files.
    """
    files = find_files(sources)
    index = HeaderIndex(_settings(sources, views, state), files)
    readers = []
    for number, path in files:
        reader = _open(sources[number], path, views, state, index, is_single=len(files) == 1)
        if not reader.headers.is_failure:
            readers.append((number, reader))
    if not readers:
        raise ValueError(
            f"{files[0][1]}: expected a demonstration that succeeded, got none in {len(files)} "
            "files, by the flags in them. Collect more."
        )
    _check_views(sources, readers, views)
    return readers, index


def find_files(sources: Sequence[DemoSource]) -> list[tuple[int, str]]:
    """Paths of all files, each file once, with the index of its source.

    Raises:
        ValueError: If a pattern matches nothing, or a file is in two entries that differ.
    """
    first: dict[object, tuple[int, str]] = {}
    for index, source in enumerate(sources):
        for path in find_demos(source):
            identity = _identity(path)
            if identity not in first:
                first[identity] = index, path
                continue
            other, known = first[identity]
            if other != index and not source.same_settings(sources[other]):
                raise ValueError(
                    f"demos: expected a file in one entry, got {known} in entries {other} and "
                    f"{index} (as {path}), which differ. Name it in one of them."
                )
            name = "twice" if path == known else f"as {path}, too"
            warnings.warn(f"demos: {known} is named {name}; it is used once.", stacklevel=2)
    return list(first.values())


def _settings(sources: Sequence[DemoSource], views: Views, state: Sequence[str]) -> Any:
    """All that the headers of files depend on beside the files, as plain values.

    None if the code of a reader is in no file.
    """
    given = [source.reader for source in sources if source.reader is not None]
    code = describe_code([*READERS, MappedReader, *given])
    if code is None:
        return None
    named = [source.key_map for source in sources if source.key_map is not None]
    key_maps = [repr(load_key_map(name)) for name in [*shipped_names(), *dict.fromkeys(named)]]
    paths = [os.path.abspath(os.path.expanduser(source.path)) for source in sources]
    readers = [repr((source.reader, source.key_map)) for source in sources]
    return [repr(views), list(state), code, key_maps, paths, readers]


def _open(
    source: DemoSource,
    path: str,
    views: Views,
    state: Sequence[str],
    index: HeaderIndex,
    is_single: bool,
) -> DemoReader:
    """The reader of a file with the answers of its headers, from the index if it has them."""
    is_given = source.reader is not None or source.key_map is not None
    kept = index.find(path)
    if kept is not None:
        sizes = views if isinstance(views, Mapping) else dict.fromkeys(views)
        present = {view: sizes[view] for view in kept.views}
        reader = (
            source.open(path, present, state)
            if kept.detected is None
            else open_detected(path, present, state, kept.detected)
        )
        kept.restore(reader)
    else:
        reader = source.open(path, views, state, keep_open=True)
        try:
            with reader.reading():
                note_file(path)
                reader.headers.is_failure = reader.is_failure
            if not reader.headers.is_failure:
                reader = reader if is_single else _read_present(source, reader)
                _read_headers(source, reader)
        finally:
            reader.close()
    index.add(reader, None if is_given else format_name(reader))
    return reader


def _read_headers(source: DemoSource, reader: DemoReader) -> None:
    """Read what set-up asks of a file, while it is open."""
    infos = reader.demos()
    if source.use_masks:
        reader.lists()
    if source.instruction is None:
        for info in infos:
            reader.instruction(info.name)
    reader.intrinsics(infos[0].name)


def _check_views(
    sources: Sequence[DemoSource], readers: Sequence[tuple[int, DemoReader]], views: Views
) -> None:
    """Warn of views that some files lack, and refuse those that all lack."""
    index, first = readers[0]
    for view in views:
        lacking = [reader.path for _, reader in readers if view not in (reader.views or ())]
        if len(lacking) == len(readers):
            present = ", ".join(_views_of(sources[index], first)) or "none"
            raise ValueError(
                f"data.views: expected views that some of the {len(readers)} files have, got "
                f"{view!r}; {first.path} has {present}."
            )
        if lacking:
            warnings.warn(
                f"{lacking[0]} has no view {view!r} ({len(lacking)} of {len(readers)} files have "
                "none): its samples have black images there, to which no token attends.",
                stacklevel=2,
            )


def _read_present(source: DemoSource, reader: DemoReader) -> DemoReader:
    """The reader, or one of the views that its file has if it lacks some of them."""
    try:
        _ = reader.spec
    except ValueError:
        present = _views_of(source, reader)
        views = {view: reader.sizes.get(view) for view in reader.views or () if view in present}
        if len(views) == len(reader.views or ()):
            raise
        reader.close()
        reader = source.open(reader.path, views, reader.state or [])
        reader.headers.is_failure = False
    return reader


def _views_of(source: DemoSource, reader: DemoReader) -> list[str]:
    """All views of a reader's file."""
    whole = source.open(reader.path, None, reader.state or [])
    views = list(whole.spec.views)
    whole.close()
    return views


def find_demos(source: DemoSource) -> list[str]:
    """Files of an entry, without those beside them that are no demonstrations.

    Which these are is said by the key map (``file.ignore``): the entry's own, else that of the
    first file that no key map ignores.
    """
    paths = expand(source.path, source.reader is not None or source.key_map is not None)
    names = [source.key_map] if source.key_map is not None else shipped_names()
    patterns = [pattern for name in names for pattern in load_key_map(name).file.ignore]
    kept = [path for path in paths if not _matches(path, patterns)]
    if len(kept) in (0, len(paths)):
        return paths
    first = source.open(kept[0], [], [])
    if not isinstance(first, MappedReader):
        return paths
    ignored = [path for path in paths if _matches(path, first.key_map.file.ignore)]
    if ignored:
        warnings.warn(
            f"{source.path}: {len(ignored)} files are left out, because they are no demonstrations "
            f"by file.ignore of the key map {first.key_map.name}: {ignored[0]}, …",
            stacklevel=2,
        )
    return [path for path in paths if path not in ignored]


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(PurePosixPath(path).name, pattern) for pattern in patterns)


def _identity(path: str) -> object:
    """What two names of one file have in common, through links of either kind."""
    if "://" in path:
        return path
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def expand(path: str, any_ending: bool = False) -> list[str]:
    """Files of a path or glob pattern, sorted.

    A path that exists is no pattern, whatever characters it has; nor are the folders of a pattern.

    Args:
        path: Local path or URL.
        any_ending: Whether to return files that do not end like HDF5 files, too.

    Raises:
        ValueError: If a pattern matches none.
    """
    if "://" in path:
        return _expand_remote(path)
    found: list[str] = []
    path = os.path.expanduser(path)
    if os.path.lexists(path):
        return [path]
    patterns = [_escape_existing(pattern) for pattern in _expand_braces(path)]
    if not any(glob.has_magic(pattern) for pattern in patterns) and len(patterns) == 1:
        return [path]
    for pattern in patterns:
        found += [match for match in glob.glob(pattern, recursive=True) if not os.path.isdir(match)]
    found = sorted(set(found))
    chosen = found if any_ending else [name for name in found if name.endswith(ENDINGS)]
    others = [name for name in found if name not in chosen and not name.endswith(".json")]
    if others and chosen:
        names = ", ".join(others[:5]) + ", …" * (len(others) > 5)
        warnings.warn(
            f"{path}: {len(others)} files are left out, because they do not end in "
            f"{', '.join(ENDINGS)}: {names}.",
            stacklevel=2,
        )
    if not chosen:
        other = f" with the ending {', '.join(ENDINGS)}, but {found[0]}" if found else ""
        raise ValueError(
            f"{path}: no file matches{other} (from {os.getcwd()}). Check the path, or run "
            "`e0 collect`."
        )
    return chosen


def _expand_remote(path: str) -> list[str]:
    if not glob.has_magic(path):
        return [path]
    system, root = fsspec.core.url_to_fs(path)
    if system.exists(root):
        return [path]
    found = [system.unstrip_protocol(match) for match in system.glob(root)]
    if not found:
        raise ValueError(f"{path}: no file matches. Check the path and the connection.")
    return sorted(found)


def _expand_braces(path: str) -> Iterator[str]:
    """Alternatives of ``{a,b}``, as in a shell."""
    braces = re.search(r"\{([^{}]*,[^{}]*)\}", path)
    if braces is None:
        yield path
        return
    for choice in braces[1].split(","):
        yield from _expand_braces(path[: braces.start()] + choice + path[braces.end() :])


def _escape_existing(pattern: str) -> str:
    """Escape the leading folders of a pattern that exist under these very names."""
    *folders, last = pattern.split(os.sep)
    plain, escaped = "", ""
    for index, folder in enumerate(folders):
        plain += folder + os.sep
        if glob.has_magic(folder) and not os.path.isdir(plain):
            return escaped + os.sep.join([*folders[index:], last])
        escaped += glob.escape(folder) + os.sep
    return escaped + last
