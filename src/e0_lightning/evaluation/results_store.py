"""Results of finished episodes on disk, so that an interrupted evaluation resumes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from fsspec.core import url_to_fs

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.types import EpisodeResult

Key = tuple[str, int, tuple[float, ...]]
"""Identity of an episode: task (with its suite), seed or initial state, camera displacement."""

CONDITIONS = ("n_action_steps", "assets", "versions")
"""Metadata that the result of an episode depends on."""

TASK_CONDITIONS = ("max_steps", "instructions")
"""Metadata, by task, that the result of an episode depends on."""


class ResultsStore:
    """One line of JSON for each finished episode, with a hash of the conditions it ran under.

    The hash covers the checkpoint, the policy's settings and the evaluation's. Lines with another
    hash stay in the file and are ignored.

    Args:
        path: The file, created with the first result.
        checkpoint: Hash of the weights; None to resume nothing.
        policy: What else determines the policy, such as its sampler; plain values.
    """

    def __init__(
        self, path: Path, checkpoint: str | None, policy: dict[str, Any] | None = None
    ) -> None:
        self.path, self.checkpoint, self.policy = path, checkpoint, policy
        self._stored: dict[str, dict[Key, EpisodeResult]] = {}

    def load(self) -> None:
        """Read the results of earlier runs; lines that are not results are ignored with a warning.

        With several ranks every rank loads before any of them adds, so that all skip the same.
        """
        self._stored = {}
        if self.checkpoint is None or not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines()
        entries = [entry for line in lines if (entry := _parse(line)) is not None]
        if unreadable := len(lines) - len(entries):
            warnings.warn(
                f"{self.path}: {unreadable} of {len(lines)} lines are not complete results and are "
                "ignored; their episodes run again.",
                stacklevel=2,
            )
        for condition, result in entries:
            if not result.error:
                if result.video is not None:
                    result = replace(result, video=str(self.path.parent / result.video))
                self._stored.setdefault(condition, {})[key(result)] = result

    def finished(
        self, episodes: Sequence[EvalEpisode], metadata: dict[str, Any]
    ) -> dict[Key, EpisodeResult]:
        """Loaded results of these episodes under these conditions; errors are not included."""
        stored = {
            key(episode): self._stored.get(self.condition_hash(episode.task, metadata), {})
            for episode in episodes
        }
        return {each: results[each] for each, results in stored.items() if each in results}

    def add(self, result: EpisodeResult, metadata: dict[str, Any]) -> None:
        """Append a result and flush it to the disk."""
        video = None if result.video is None else relative_to(self.path.parent, result.video)
        entry = {
            **asdict(replace(result, video=video)),
            "condition_hash": self.condition_hash(result.task, metadata),
        }
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # ranks share the file
            line = json.dumps(entry).encode() + b"\n"
            file.write(line if _ends_with_newline(file) else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())

    def condition_hash(self, task: str, metadata: dict[str, Any]) -> str:
        """Hash of everything that a result depends on besides the episode itself."""
        conditions = {name: metadata.get(name) for name in CONDITIONS}
        conditions |= {name: metadata.get(name, {}).get(task) for name in TASK_CONDITIONS}
        text = json.dumps([self.checkpoint, self.policy, conditions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class FolderLock:
    """Exclusive use of a results folder by one process; released when the process ends.

    Args:
        folder: The folder, which must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None

    def acquire(self) -> None:
        """Lock the folder.

        Raises:
            RuntimeError: If another process has locked it.
        """
        file = (self.folder / ".lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RuntimeError(
                f"{self.folder}: expected a folder that no other evaluation writes to, got one "
                "that a running `lightning test` has locked. Wait until it ends, or give this "
                "one another folder."
            ) from None
        self._file = file

    def release(self) -> None:
        """Unlock the folder, if it is locked."""
        if self._file is not None:
            self._file.close()
            self._file = None


def key(episode: EvalEpisode | EpisodeResult) -> Key:
    """Identity of an episode among those of a checkpoint."""
    return episode.task, episode.seed, tuple(float(value) for value in episode.camera)


def to_result(entry: dict[str, Any]) -> EpisodeResult:
    """Convert an episode from JSON.

    Raises:
        ValueError: If a field is missing or of another type.
    """
    try:
        names = [each.name for each in fields(EpisodeResult) if each.name in entry]
        values = {name: entry[name] for name in names}
        azimuth, elevation, distance = map(float, entry.get("camera", (0.0, 0.0, 0.0)))
        result = EpisodeResult(**{**values, "camera": (azimuth, elevation, distance)})
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected the fields of an episode result, got {entry}.") from error
    expected = {"task": str, "seed": int, "success": bool, "steps": int, "error": str}
    for name, kind in expected.items():
        if not isinstance(getattr(result, name), kind):
            raise ValueError(f"expected {name} of type {kind.__name__}, got {entry[name]!r}.")
    if not (result.video is None or isinstance(result.video, str)):
        raise ValueError(f"expected video of type str, got {result.video!r}.")
    if not (result.score is None or isinstance(result.score, int | float)):
        raise ValueError(f"expected score of type float, got {result.score!r}.")
    if not isinstance(result.flags, dict):
        raise ValueError(f"expected flags of type dict, got {result.flags!r}.")
    return result


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that concurrent readers get the old or the new one, never a part of it."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


def relative_to(folder: Path, file: str) -> str:
    """Path of a file relative to a folder that contains it; otherwise the path as it is."""
    path, parent = Path(file).resolve(), folder.resolve()
    return path.relative_to(parent).as_posix() if path.is_relative_to(parent) else file


def fingerprint(path: str | Path) -> str:
    """Hash of a checkpoint, a file or a folder of shards, local or remote (fsspec).

    Raises:
        FileNotFoundError: If there is none.
    """
    system, location = url_to_fs(str(path))
    files = sorted(system.find(location))
    if not files:
        raise FileNotFoundError(f"{path}: expected a checkpoint (a file or a folder), got nothing.")
    whole = hashlib.sha256()
    for each in files:
        with system.open(each, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def training_step(path: str | Path) -> int | None:
    """Training step of a checkpoint; None where it is remote or has none."""
    file = Path(path) / "meta.pt" if Path(path).is_dir() else Path(path)
    try:
        # Memory-mapped, so that the weights are not read.
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return int(checkpoint["global_step"])
    except Exception:  # the report does not depend on it, and torch raises exceptions of any type
        return None


def _ends_with_newline(file: BinaryIO) -> bool:
    """Whether a file is empty or its last line is complete; an interrupted write leaves a part."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _parse(line: bytes) -> tuple[str, EpisodeResult] | None:
    """Condition hash and result of a line, None if it is not a complete result."""
    try:
        entry = json.loads(line)
        return str(entry["condition_hash"]), to_result(entry)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
