"""Episode store for ACT's layout: one file an episode, ``episode_<n>.hdf5``."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from e0_lightning.collection.episode_store import fsync_rename, load_json


class AlohaEpisodeStore:
    """A folder of finished episodes, usable while the collection goes on.

    ACT's files do not say which seed they show, so ``seeds.json`` beside them does. Every file is
    written under another name, flushed to disk and renamed.

    Args:
        folder: The folder to write or extend.
        task: Task of all its episodes.

    Raises:
        ValueError: If the folder holds episodes of another task or origin, or is being written by
            another collection.
    """

    suffix: ClassVar[str] = ".hdf5"

    def __init__(self, folder: Path, task: str) -> None:
        # Worker processes write to the folder from working directories of their own.
        self.folder, self.task = folder.absolute(), task
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ValueError(
                f"{folder}: another collection is writing to it; wait until it has ended."
            ) from error
        for path in self.folder.glob("unfinished_*"):
            path.unlink()
        self._seeds, self._failed = self._read()

    def succeeded(self) -> dict[int, Path]:
        """Return every demonstrated seed with its file."""
        return {seed: self._path(number) for number, seed in enumerate(self._seeds)}

    def failed(self) -> dict[int, str]:
        """Return every failed seed with the reason."""
        return self._failed

    def untried(self) -> Iterator[int]:
        """Iterate, without end, over the seeds to try next."""
        tried = {*self._seeds, *self._failed}
        return (seed for seed in count() if seed not in tried)

    def add(self, seed: int, source: Path) -> None:
        """Move the finished file of a seed into the folder, under the next number."""
        # A seed that is listed without its file, because the process was killed in between, is
        # tried again.
        self._seeds.append(seed)
        self._write()
        fsync_rename(source, self._path(len(self._seeds) - 1))

    def add_failure(self, seed: int, reason: str) -> None:
        """Record why a seed failed."""
        self._failed[seed] = reason
        self._write()

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def _path(self, number: int) -> Path:
        return self.folder / f"episode_{number}{self.suffix}"

    def _read(self) -> tuple[list[int], dict[int, str]]:
        path = self.folder / "seeds.json"
        known: dict[str, Any] = {"task": self.task, "seeds": [], "failed": {}}
        if path.exists():
            known = load_json(path)
        if known["task"] != self.task:
            raise ValueError(
                f"{self.folder}: expected demonstrations of {self.task}, got {known['task']}. Name "
                "another folder in out."
            )
        files = len(list(self.folder.glob(f"episode_*{self.suffix}")))
        if not len(known["seeds"]) - 1 <= files <= len(known["seeds"]):
            raise ValueError(
                f"{self.folder}: expected the {len(known['seeds'])} episodes that {path.name} "
                f"lists, got {files}. Move the folder away, or name another in out."
            )
        return known["seeds"][:files], {int(seed): why for seed, why in known["failed"].items()}

    def _write(self) -> None:
        path = self.folder / "unfinished_seeds.json"
        unfinished = {"task": self.task, "seeds": self._seeds, "failed": self._failed}
        path.write_text(json.dumps(unfinished))
        fsync_rename(path, self.folder / "seeds.json")
