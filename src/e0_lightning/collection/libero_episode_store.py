"""Finished LIBERO demonstrations on disk while a collection runs, a file each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from e0_lightning.collection.episode_store import fsync_rename


class LiberoEpisodeStore:
    """The folder ``<out>.parts``: a file for each demonstration, and what was tried in vain.

    Every file is written elsewhere, flushed to the disk and renamed, so that a process may die at
    any moment. A seed that failed leaves ``seed_<n>.failed`` with the reason.

    Args:
        out: The file to make, ``<task>_demo.hdf5``; one that is there is extended.

    Raises:
        ValueError: If `out` is there and was not collected by this command.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(out.name + ".parts")
        self.published = self._published()

    def succeeded(self) -> dict[int, Path]:
        """File that holds each seed's demonstration."""
        parts = {_seed(path): path for path in self.folder.glob("seed_*.hdf5")}
        return dict(sorted({**parts, **dict.fromkeys(self.published, self.out)}.items()))

    def require_size(self, image_size: int) -> None:
        """Refuse to mix demonstrations of different image sizes in one file.

        Raises:
            ValueError: If some are there whose images have another side than `image_size`.
        """
        import h5py

        for seed, path in self.succeeded().items():
            with h5py.File(path, "r") as file:
                images = file[f"data/{self.published.get(seed, 'demo_0')}/obs/agentview_rgb"]
                side = images.shape[1]
            if side != image_size:
                raise ValueError(
                    f"{path} holds demonstrations with image size {side}, and {image_size} is "
                    f"asked for; give out another folder, or move the old file (and {self.folder}) "
                    "away"
                )

    def failed(self) -> dict[int, str]:
        """Why each seed failed that was tried in vain."""
        return {_seed(path): path.read_text() for path in self.folder.glob("seed_*.failed")}

    def untried(self) -> Iterator[int]:
        """Seeds to try next, without end.

        Beyond those of a published file, whose failures have left no trace once all is done.
        """
        tried = {*self.succeeded(), *self.failed()}
        first = max(self.published, default=-1) + 1
        return (seed for seed in count(first) if seed not in tried)

    def add(self, seed: int, source: Path, failure: str) -> None:
        """File away a demonstration, which is moved, or why there is none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if failure:
            source = source.with_suffix(".failed")
            source.write_text(failure)
        fsync_rename(source, self.folder / f"seed_{seed}{source.suffix}")

    def publish(self) -> int:
        """Write all demonstrations to `out` in the order of their seeds.

        Returns:
            How many they are.
        """
        import h5py

        succeeded = self.succeeded()
        if set(succeeded) == set(self.published):
            return len(succeeded)
        merged = self.folder / "merged.hdf5"
        # Models are longer than attributes could be in older versions of the format.
        with h5py.File(merged, "w", libver="latest") as target:
            data, total = target.create_group("data"), 0
            for number, (seed, path) in enumerate(succeeded.items()):
                with h5py.File(path, "r") as source:
                    data.attrs.update(source["data"].attrs)
                    name = f"data/{self.published.get(seed, 'demo_0')}"
                    source.copy(name, data, f"demo_{number}")
                total += int(data[f"demo_{number}"].attrs["num_samples"])
            data.attrs["num_demos"], data.attrs["total"] = len(succeeded), total
        fsync_rename(merged, self.out)
        self.published = self._published()
        return len(succeeded)

    def clear(self) -> None:
        """Remove the folder, once everything in it is published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _published(self) -> dict[int, str]:
        """Name of each seed's demonstration in `out`."""
        import h5py

        if not self.out.exists():
            return {}
        try:
            with h5py.File(self.out, "r") as file:
                return {int(demo.attrs["seed"]): name for name, demo in file["data"].items()}
        except (OSError, KeyError) as error:
            raise ValueError(
                f"{self.out}: found something that `e0 collect libero` did not write ({error}); "
                "move it away, or name another folder in out"
            ) from error


def _seed(path: Path) -> int:
    return int(path.stem.removeprefix("seed_"))
