"""Reading speed of robomimic's loader; run by an environment with robomimic, without ours.

Usage: ``robomimic_loader.py FOLDER``, where ``settings.json`` describes the recordings ``0.npz``,
``1.npz`` and so on. It prints a line when their file is written. Then each line of its input, a
number of workers and of frames, is answered by a line with frames per second, until an empty one.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch


def write(folder: Path, settings: dict[str, Any]) -> None:
    """Write the recordings as robomimic's file, with raw frames."""
    with h5py.File(folder / "demos.hdf5", "w") as file:
        for number in range(settings["recordings"]):
            recording = np.load(folder / f"{number}.npz")
            group = file.create_group(f"data/demo_{number}")
            group.attrs["num_samples"] = len(recording["actions"])
            group["actions"], group["obs/state"] = recording["actions"], recording["states"]
            for view in settings["views"]:
                group[f"obs/{view}"] = recording[view]


def open_dataset(folder: Path, settings: dict[str, Any]) -> Any:
    """Samples of one step with its frames, with robomimic's options for images."""
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    views = settings["views"]
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"], "rgb": views}})
    return SequenceDataset(
        str(folder / "demos.hdf5"),
        obs_keys=["state", *views],
        dataset_keys=["actions"],
        load_next_obs=False,
        hdf5_cache_mode="low_dim",
    )


def measure(data: Any, settings: dict[str, Any], num_workers: int, num_frames: int) -> float:
    """Frames per second of shuffled batches, once the workers are under way."""
    loader = torch.utils.data.DataLoader(
        data, settings["batch_size"], shuffle=True, num_workers=num_workers
    )
    batches, frames = iter(loader), 0
    for _ in islice(batches, 2 * num_workers + 1):
        pass
    start = time.perf_counter()
    for batch in batches:
        frames += len(batch["actions"]) * len(settings["views"])
        if frames >= num_frames:
            break
    return frames / (time.perf_counter() - start)


def main(folder: Path) -> None:
    """Write the file, then measure as often as is asked for."""
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(1)
    write(folder, settings)
    with redirect_stdout(sys.stderr):  # it prints what it has found
        data = open_dataset(folder, settings)
    print("written", flush=True)
    while line := sys.stdin.readline().strip():
        num_workers, num_frames = map(int, line.split())
        print(measure(data, settings, num_workers, num_frames), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
