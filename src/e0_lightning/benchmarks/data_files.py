"""The same recorded frames in files of every storage, for `e0 benchmark data`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.datamodule import RobotDemos

STORAGES: dict[str, dict[str, Any]] = {
    "raw": {},
    "gzip": {"compression": "gzip"},
    "JPEG": {"quality": 95},
    "PNG": {"compress_level": 1},
}
"""How frames are stored, with options of h5py or of Pillow: h5py's own chunks with gzip."""


class Recording(NamedTuple):
    """A demonstration, or the first steps of one."""

    actions: NDArray[np.float32]
    """``(T, D)``."""
    states: NDArray[np.float32]
    """``(T, Q)``."""
    images: dict[str, NDArray[np.uint8]]
    """View to frames ``(T, h, w, 3)``, as recorded."""


def record(demos: RobotDemos, num_steps: int) -> Iterator[Recording]:
    """Read the first demonstrations, together no more than ``num_steps`` steps."""
    for demo in demos.datasets[0].demos:
        steps = min(demo.steps, num_steps)
        num_steps -= steps
        if steps:
            yield Recording(
                demo.reader.actions(demo.name, 0, steps),
                demo.reader.states(demo.name, 0, steps),
                demo.reader.images(demo.name, 0, steps),
            )


def write_file(path: str, recordings: list[Recording], storage: str) -> None:
    """Write a file in robomimic's layout, frames in one of `STORAGES`."""
    controller = {"type": "JOINT_POSITION", "control_delta": False}
    arguments = {"env_kwargs": {"controller_configs": controller}}
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(arguments)
        for number, recording in enumerate(recordings):
            group = file.create_group(f"data/demo_{number}")
            group["actions"] = recording.actions
            group["obs/state"] = recording.states
            for view, frames in recording.images.items():
                _store(group, f"obs/{view}_image", frames, storage)


def _store(group: h5py.Group, key: str, frames: NDArray[np.uint8], storage: str) -> None:
    from PIL import Image

    options = STORAGES[storage]
    if storage in ("raw", "gzip"):
        group.create_dataset(key, data=frames, **options)
        return
    rows = group.create_dataset(key, (len(frames),), dtype=h5py.vlen_dtype(np.uint8))
    for step, frame in enumerate(frames):
        encoded = io.BytesIO()
        Image.fromarray(frame).save(encoded, storage, **options)
        rows[step] = np.frombuffer(encoded.getvalue(), np.uint8)
