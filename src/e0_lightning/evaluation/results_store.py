"""Finished episodes on disk, so that an evaluation that is stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.types import EpisodeResult

Key = tuple[str, int, tuple[float, ...]]
"""Task (with its suite), seed or initial state, and displacement of the camera."""

CONDITIONS = ("n_action_steps", "assets", "versions")
"""What an episode depends on beside the policy and its task, of what a report tells."""

OF_TASK = ("max_steps", "instructions")
"""What it depends on of what a report tells task by task."""


class ResultsStore:
    """A line of JSON for each finished episode: what came of it, and of which policy.

    Lines of other policies and conditions stay in the file, and count for nothing here.

    Args:
        path: The file, created with the first line.
        checkpoint: Hash of the weights; None where nothing is to be remembered.
        policy: What else decides what the policy does, such as its sampler; plain values.
    """

    def __init__(
        self, path: Path, checkpoint: str | None, policy: dict[str, Any] | None = None
    ) -> None:
        self.path, self.checkpoint, self.policy = path, checkpoint, policy

    def finished(self, about: dict[str, Any]) -> dict[Key, EpisodeResult]:
        """Episodes that were played to their end under these conditions; errors are not."""
        if self.checkpoint is None or not self.path.exists():
            return {}
        known = {}
        for line in self.path.read_text().splitlines():
            entry = _parse(line)
            if entry is None or entry["error"]:
                continue
            result = to_result(entry)
            if entry["mark"] == self._mark(result, about):
                known[key(result)] = result
        return known

    def add(self, results: Sequence[EpisodeResult], about: dict[str, Any]) -> None:
        """Append finished episodes."""
        lines = [{**asdict(each), "mark": self._mark(each, about)} for each in results]
        with self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def _mark(self, result: EpisodeResult, about: dict[str, Any]) -> str:
        conditions = {name: about.get(name) for name in CONDITIONS}
        conditions |= {name: about.get(name, {}).get(result.task) for name in OF_TASK}
        text = json.dumps([self.checkpoint, self.policy, conditions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def key(episode: EvalEpisode | EpisodeResult) -> Key:
    """What tells an episode from all others of a checkpoint."""
    return episode.task, episode.seed, tuple(float(value) for value in episode.camera)


def to_result(entry: dict[str, Any]) -> EpisodeResult:
    """An episode as JSON has it."""
    names = [each.name for each in fields(EpisodeResult)]
    known = {name: entry[name] for name in names if name in entry}
    return EpisodeResult(**{**known, "camera": tuple(entry.get("camera", (0.0, 0.0, 0.0)))})


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may be reading: they find the old one or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


def fingerprint(path: str | Path) -> str:
    """Hash of a checkpoint, a file or a folder of shards, wherever fsspec finds it.

    Raises:
        FileNotFoundError: If there is none.
    """
    system, place = url_to_fs(str(path))
    files = sorted(system.find(place))
    if not files:
        raise FileNotFoundError(f"{path}: found no checkpoint, a file or a folder of shards")
    whole = hashlib.sha256()
    for each in files:
        with system.open(each, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _parse(line: str) -> dict[str, Any] | None:
    """A line, unless the process died while it was writing it."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if "mark" in entry else None
