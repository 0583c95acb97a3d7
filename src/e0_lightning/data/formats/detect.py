"""Detection of the format of a demonstration file."""

from __future__ import annotations

from collections.abc import Sequence

from e0_lightning.data.formats.base import DemoReader, Views
from e0_lightning.data.formats.hdf5 import name_damage, open_hdf5
from e0_lightning.data.formats.maniskill import ManiSkillReader
from e0_lightning.data.formats.mapped import MappedReader, has_marks
from e0_lightning.data.formats.pusht import PushTReader
from e0_lightning.data.formats.robomimic import RobomimicReader
from e0_lightning.data.formats.vlabench import VLABenchReader
from e0_lightning.key_map import load_key_map, shipped_names

READERS: tuple[type[DemoReader], ...] = (
    ManiSkillReader,
    PushTReader,
    RobomimicReader,
    VLABenchReader,
)
"""Readers of the formats that are detected, in the order of trial."""


def open_demos(
    path: str,
    views: Views | None = None,
    state: Sequence[str] | None = None,
    reader: type[DemoReader] | None = None,
) -> DemoReader:
    """Create the reader of a file of demonstrations.

    Args:
        path: Local path or fsspec URL.
        views: Cameras to read, with or without the sizes of their images; all if None.
        state: Names of the state parts to read; all if None.
        reader: Reader class; detected from the content of the file if None.

    Raises:
        ValueError: If the file cannot be opened or has no known format.
    """
    if reader is not None:
        return reader(path, views, state)
    with name_damage(path), open_hdf5(path) as file:
        for known in READERS:
            if known.can_read(file):
                return known(path, views, state)
        for key_map in map(load_key_map, shipped_names()):
            if has_marks(file, key_map):
                return MappedReader(path, views, state, key_map)
        found = ", ".join(list(file)[:5]) or "nothing"
    formats = ", ".join(known.format for known in READERS)
    raise ValueError(
        f"{path}: expected a known format of demonstrations ({formats}), got {found} at the top of "
        "the file. For another one, name a reader: {path: …, reader: my_module.MyReader}."
    )
