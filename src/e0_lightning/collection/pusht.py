"""PushT's published human demonstrations as HDF5: `e0 collect pusht`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from e0_lightning.collection.episode_store import fsync_rename
from e0_lightning.data.formats.pusht import CONTROL_MODE, IMAGE

KEYS = ("data/state", "data/action", "data/img", "meta/episode_ends")
"""Arrays of the published file: disc and block ``(N, 5)``, target positions ``(N, 2)``, frames
``(N, h, w, 3)`` in [0, 255], and the number of steps until the end of each demonstration."""

ENV_ARGS = {
    "env_name": "PushT",
    "type": 2,  # robomimic's number of gym environments
    "env_kwargs": {"controller_configs": {"type": CONTROL_MODE.upper(), "control_delta": False}},
}
"""The environment as robomimic's tools look it up."""


def collect(source: Path, out: Path = Path("data/pusht/pusht.hdf5")) -> Path:
    """Convert the human demonstrations of PushT that Diffusion Policy was published with.

    They are not collected anew: download pusht.zip from
    https://diffusion-policy.cs.columbia.edu/data/training/ and unpack it. All 206 demonstrations
    are copied without loss, in the layout of robomimic.

    Args:
        source: The folder ``pusht_cchi_v7_replay.zarr``.
        out: HDF5 file to write.

    Returns:
        The file written.

    Raises:
        ValueError: If `source` is not that recording, or `out` exists.
        ModuleNotFoundError: If zarr is not installed.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise ValueError(f"out: expected a new file, got {out}, which exists. Move it away.")
    recording = _open(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    with h5py.File(part, "w") as file:
        data = file.create_group("data")
        for index, (start, stop) in enumerate(_limits(recording, source)):
            _write(data.create_group(f"demo_{index}"), recording, start, stop)
        data.attrs["env_args"] = json.dumps(ENV_ARGS)
        data.attrs["total"] = recording["data/action"].shape[0]
        count = len(data)
    fsync_rename(part, out)
    print(f"{out} holds {count} demonstrations of PushT.")
    return out


def _open(source: Path) -> Any:
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Converting PushT needs zarr, and {error.name} is not installed: "
            "pip install 'e0-lightning[pusht]'"
        ) from error
    missing: list[str] = list(KEYS)
    if source.is_dir():
        recording = zarr.open_group(str(source), mode="r")
        missing = [key for key in KEYS if key not in recording]
    if missing:
        raise ValueError(
            f"{source}: expected the folder pusht_cchi_v7_replay.zarr with {', '.join(KEYS)}, got "
            f"none with {', '.join(missing)}. Unpack pusht.zip, and name the folder inside."
        )
    return recording


def _limits(recording: Any, source: Path) -> Iterator[tuple[int, int]]:
    """First step and end of each demonstration."""
    ends = [int(end) for end in recording["meta/episode_ends"][:]]
    limits = list(pairwise([0, *ends]))
    steps = {recording[key].shape[0] for key in KEYS[:3]}
    if steps != {ends[-1]} or any(start >= stop for start, stop in limits):
        raise ValueError(
            f"{source}: expected data of {ends[-1]} steps and ends of demonstrations that "
            f"increase, got data of {sorted(steps)} steps. Copy it again."
        )
    yield from limits


def _write(demo: h5py.Group, recording: Any, start: int, stop: int) -> None:
    state = np.asarray(recording["data/state"][start:stop], np.float32)
    images = np.asarray(recording["data/img"][start:stop])
    demo.attrs["num_samples"] = stop - start
    demo["actions"] = np.asarray(recording["data/action"][start:stop], np.float32)
    demo["obs/agent_pos"], demo["obs/block_pose"] = state[:, :2], state[:, 2:]
    # A chunk for each frame, because training reads steps in random order.
    chunks = (1, *images.shape[1:])
    frames = images.astype(np.uint8)
    demo.create_dataset(f"obs/{IMAGE}", data=frames, chunks=chunks, compression="gzip")
