"""Finished episodes on disk while a collection runs: one file each, published together."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

Sidecar = dict[str, Any]


class EpisodeStore:
    """The folder ``<out>.parts``: an episode a file, and what was tried in vain.

    An episode counts once ``seed_<n>.json`` stands there; its ``.h5`` was in place before. A seed
    whose demonstration failed leaves a JSON file alone. Every file is written elsewhere, flushed
    to the disk and then renamed, so a process may die at any moment.

    Args:
        out: The demonstration file to make, ``*.h5``; its sidecar is the ``.json`` beside it.

    Raises:
        ValueError: If `out` is not named ``*.h5``, or another collection is writing to it.
    """

    def __init__(self, out: Path) -> None:
        if out.suffix != ".h5":
            raise ValueError(f"out is {str(out)!r}; name a file that ends in .h5")
        self.out = out
        self.sidecar = out.with_suffix(".json")
        self.folder = out.with_name(out.name + ".parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.published = 0
        """Episodes in `out`, once `finished` has looked."""
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{out}: another collection is writing to it; wait for it") from error
        for left in self.folder.glob("unfinished_*"):
            shutil.rmtree(left)

    def finished(self) -> dict[int, tuple[Path, Sidecar]]:
        """Every seed tried so far, with the file and the sidecar that hold it, by seed.

        The sidecar's ``episodes`` is that one episode, or empty where the demonstration failed.

        Raises:
            ValueError: If `out` exists and is not a whole demonstration file.
        """
        tried = {}
        for path in self.folder.glob("seed_*.json"):
            tried[int(path.stem.removeprefix("seed_"))] = (path.with_suffix(".h5"), _load(path))
        published = self._published()
        self.published = len(published)
        return dict(sorted({**tried, **published}.items()))

    def untried(self) -> Iterator[int]:
        """Seeds to try next, without end.

        Beyond those of a published file, whose failures have left no trace.
        """
        tried = self.finished()
        published = [seed for seed, (path, _) in tried.items() if path == self.out]
        return (seed for seed in count(max(published, default=-1) + 1) if seed not in tried)

    def add(self, seed: int, source: Path, sidecar: Sidecar) -> None:
        """Take over one tried seed from the file `source`, which is moved away if it exists."""
        target = self.folder / f"seed_{seed}.h5"
        if source.exists():
            fsync_rename(source, target)
        written = source.with_name("sidecar.json")
        written.write_text(json.dumps(sidecar, indent=2))
        fsync_rename(written, target.with_suffix(".json"))

    def publish(self) -> int:
        """Write all finished episodes to `out` in the order of their seeds.

        The sidecar is renamed into place first and the HDF5 file last: whoever finds `out` finds
        all that its sidecar lists. A death in between leaves everything for the next call.

        Returns:
            How many episodes `out` holds.
        """
        import h5py

        episodes: list[dict[str, Any]] = []
        head: Sidecar = {}
        merged = self.folder / "merged.h5"
        with h5py.File(merged, "w") as target:
            for path, sidecar in self.finished().values():
                for episode in sidecar["episodes"]:
                    head = head or {key: sidecar[key] for key in sidecar if key != "episodes"}
                    with h5py.File(path, "r") as source:
                        source.copy(
                            f"traj_{episode['episode_id']}", target, f"traj_{len(episodes)}"
                        )
                    episodes.append({**episode, "episode_id": len(episodes)})
        written = merged.with_suffix(".json")
        written.write_text(json.dumps({**head, "episodes": episodes}, indent=2))
        fsync_rename(written, self.sidecar)
        fsync_rename(merged, self.out)
        return len(episodes)

    def clear(self) -> None:
        """Remove the folder, once everything in it is published."""
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let another collection have the folder."""
        self._lock.close()

    def _published(self) -> dict[int, tuple[Path, Sidecar]]:
        import h5py

        if not self.out.exists():
            return {}
        if not self.sidecar.exists():
            raise ValueError(
                f"{self.out} has no sidecar {self.sidecar.name}, so it is not a whole "
                "demonstration file; move it away, or name another file in out"
            )
        try:
            with h5py.File(self.out, "r") as file:
                stored = set(file)
        except OSError as error:
            raise ValueError(
                f"{self.out} is not a readable HDF5 file ({error}); move it away and collect again"
            ) from error
        sidecar = _load(self.sidecar)
        # A death between the two renames of an extension leaves a sidecar that lists more than
        # the file holds; the rest is still among the parts.
        return {
            episode["episode_seed"]: (self.out, {**sidecar, "episodes": [episode]})
            for episode in sidecar["episodes"]
            if f"traj_{episode['episode_id']}" in stored
        }


def _load(path: Path) -> Sidecar:
    try:
        return dict(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); move it and its .h5 file away") from error


def fsync_rename(source: Path, target: Path) -> None:
    """Flush `source` to the disk, give it its final name, and flush that."""
    _flush(source)
    os.replace(source, target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
