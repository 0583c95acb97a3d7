"""Episode store for ManiSkill's demonstration files: HDF5 with a JSON sidecar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e0_lightning.collection.episode_store import (
    EpisodeSource,
    EpisodeStore,
    fsync_rename,
    load_json,
)
from e0_lightning.data.formats.rendering import RENDER_QUALITY, read_render_quality
from e0_lightning.types import RenderQuality

Sidecar = dict[str, Any]
"""Content of ManiSkill's JSON file beside an HDF5 file: environment, and one entry per episode."""

STATES = "state_dict"
"""ManiSkill's observation mode of recordings without images."""

SIDECAR_DATASET = "sidecar"
"""Dataset that holds the sidecar of a single episode, as JSON text."""


class ManiSkillEpisodeStore(EpisodeStore):
    """Episodes ``traj_<n>`` and the sidecar that lists their seeds; see :class:`EpisodeStore`.

    Args:
        out: The file to write or extend, ``*.h5``; its sidecar is the ``.json`` beside it.
        task: ManiSkill's name of the task.
        control_mode: Controller of the recorded actions.
        image_size: Image side in pixels; None for the task's default.
        images: Whether images are recorded.
        depth: Whether depth is recorded with them.
        render_quality: How images are rendered.
    """

    suffix = ".h5"
    group_prefix = "traj_"

    def __init__(
        self,
        out: Path,
        task: str,
        control_mode: str,
        image_size: int | None,
        images: bool = True,
        depth: bool = False,
        render_quality: RenderQuality = "default",
    ) -> None:
        self.sidecar = out.absolute().with_suffix(".json")
        config = {
            "task": task,
            "control_mode": control_mode,
            "image_size": image_size,
            "images": images,
            "depth": depth,
            RENDER_QUALITY: render_quality,
        }
        super().__init__(out, config)

    def _read_published(self) -> dict[int, str]:
        import h5py

        if not self.sidecar.exists():
            raise ValueError(
                f"{self.out}: expected a sidecar {self.sidecar.name} beside it, got none. Move the "
                "incomplete file away, or name another file in out."
            )
        try:
            with h5py.File(self.out, "r") as file:
                stored = set(file)
        except OSError as error:
            raise ValueError(
                f"{self.out}: expected a readable HDF5 file ({error}). Move it away and collect "
                "again."
            ) from error
        # If publishing was interrupted between the two renames, the sidecar lists more episodes
        # than the file holds; the others are still in the folder.
        return {
            episode["episode_seed"]: name
            for episode in load_json(self.sidecar)["episodes"]
            if (name := f"{self.group_prefix}{episode['episode_id']}") in stored
        }

    def _read_config(self) -> dict[str, Any]:
        info = load_json(self.sidecar)["env_info"]
        cameras = info["env_kwargs"].get("sensor_configs") or {}
        obs_mode = info["env_kwargs"].get("obs_mode")
        return {
            "task": info["env_id"],
            "control_mode": info["env_kwargs"]["control_mode"],
            "image_size": cameras.get("width"),
            "images": obs_mode != STATES,
            "depth": "depth" in str(obs_mode),
            RENDER_QUALITY: read_render_quality(info, f"{self.sidecar}: env_info"),
        }

    def _write_metadata(self, merged: Path, sources: list[EpisodeSource]) -> None:
        sidecars = [self._read_sidecar(source) for source in sources]
        episodes = [
            {**sidecar["episodes"][0], "episode_id": number}
            for number, sidecar in enumerate(sidecars)
        ]
        path = merged.with_suffix(".json")
        path.write_text(json.dumps({**sidecars[0], "episodes": episodes}, indent=2))
        # Before the HDF5 file, so that every episode of a readable file is listed.
        fsync_rename(path, self.sidecar)

    def _read_sidecar(self, source: EpisodeSource) -> Sidecar:
        """Read the sidecar of one episode; its ``episodes`` has one entry."""
        import h5py

        if source.path != self.out:
            with h5py.File(source.path, "r") as file:
                return dict(json.loads(file[SIDECAR_DATASET][()]))
        sidecar = load_json(self.sidecar)
        number = int(source.group.removeprefix(self.group_prefix))
        own = [each for each in sidecar["episodes"] if each["episode_id"] == number]
        return {**sidecar, "episodes": own}
