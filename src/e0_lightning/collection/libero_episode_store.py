"""Episode store for LIBERO's demonstration files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e0_lightning.collection.episode_store import LIBVER, EpisodeSource, EpisodeStore
from e0_lightning.data.formats.libero import render_quality as quality_of
from e0_lightning.types import RenderQuality


class LiberoEpisodeStore(EpisodeStore):
    """Episodes ``data/demo_<n>``, each with its seed as an attribute; see :class:`EpisodeStore`.

    Args:
        out: The file to write or extend, ``<task>_demo.hdf5``.
        image_size: Image side in pixels.
        render_quality: How images are rendered.

    Raises:
        ValueError: If `out` was not written by this class, or see :class:`EpisodeStore`.
    """

    suffix = ".hdf5"
    root = "data"
    group_prefix = "demo_"

    def __init__(self, out: Path, image_size: int, render_quality: RenderQuality) -> None:
        super().__init__(out, {"image_size": image_size, "render_quality": render_quality})

    def _read_published(self) -> dict[int, str]:
        import h5py

        try:
            with h5py.File(self.out, "r") as file:
                return {int(demo.attrs["seed"]): name for name, demo in file[self.root].items()}
        except (OSError, KeyError) as error:
            raise ValueError(
                f"{self.out}: expected a file written by `e0 collect libero` ({error}). Move it "
                "away, or name another folder in out."
            ) from error

    def _read_config(self) -> dict[str, Any]:
        import h5py

        with h5py.File(self.out, "r") as file:
            demo = file[self.root][next(iter(self.published.values()))]
            return {
                "image_size": demo["obs/agentview_rgb"].shape[1],
                "render_quality": quality_of(file[self.root]),
            }

    def _write_metadata(self, merged: Path, sources: list[EpisodeSource]) -> None:
        import h5py

        with h5py.File(merged, "r+", libver=LIBVER) as file:
            data = file[self.root]
            with h5py.File(sources[0].path, "r") as source:
                data.attrs.update(source[self.root].attrs)
            data.attrs["num_demos"] = len(data)
            data.attrs["total"] = sum(int(demo.attrs["num_samples"]) for demo in data.values())
