"""Reading speed of a peer's loader; run by an environment with the peer, without ours.

Usage: ``peer_loader.py PEER FOLDER``, where ``settings.json`` describes the recordings ``0.npz``,
``1.npz`` and so on. It prints a line when they are written in the peer's format. Then each line of
its input, a number of workers and of frames, is answered by a line with frames per second, until an
empty one.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

FPS = 20
NAME = "benchmark"


def write_lerobot(folder: Path, settings: dict[str, Any], recordings: list[Any]) -> None:
    """Write the recordings as a data set of videos, with LeRobot's default codec."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    views = {view: f"observation.images.{view}" for view in settings["views"]}
    shapes = {key: recordings[0][key].shape[1:] for key in ("actions", "states", *views)}
    features = {
        "action": {"dtype": "float32", "shape": shapes["actions"], "names": None},
        "observation.state": {"dtype": "float32", "shape": shapes["states"], "names": None},
    }
    for view, key in views.items():
        names = ["height", "width", "channels"]
        features[key] = {"dtype": "video", "shape": shapes[view], "names": names}
    dataset = LeRobotDataset.create(NAME, FPS, features, root=folder / "lerobot")
    for recording in recordings:
        arrays = {key: recording[key] for key in shapes}
        for step in range(len(arrays["actions"])):
            frame = {key: arrays[view][step] for view, key in views.items()}
            frame["action"], frame["observation.state"] = (
                arrays[key][step] for key in ("actions", "states")
            )
            dataset.add_frame({**frame, "task": NAME})
        dataset.save_episode()
    dataset.finalize()


def open_lerobot(folder: Path, settings: dict[str, Any]) -> Any:
    """Samples of one frame and an action chunk."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torchvision.transforms.v2 import Resize

    return LeRobotDataset(
        NAME,
        root=folder / "lerobot",
        image_transforms=Resize(settings["size"]) if settings["size"] else None,
        delta_timestamps={"action": [step / FPS for step in range(settings["horizon"])]},
        video_backend="pyav",
    )


def write_robomimic(folder: Path, settings: dict[str, Any], recordings: list[Any]) -> None:
    """Write the recordings as robomimic's file, with raw frames."""
    import h5py

    with h5py.File(folder / "demos.hdf5", "w") as file:
        for number, recording in enumerate(recordings):
            group = file.create_group(f"data/demo_{number}")
            group.attrs["num_samples"] = len(recording["actions"])
            group["actions"], group["obs/state"] = recording["actions"], recording["states"]
            for view in settings["views"]:
                group[f"obs/{view}"] = recording[view]


def open_robomimic(folder: Path, settings: dict[str, Any]) -> Any:
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


PEERS = {
    "LeRobot": (write_lerobot, open_lerobot, "action"),
    "robomimic": (write_robomimic, open_robomimic, "actions"),
}
"""Peer to what writes its files, what opens them, and its name of the actions."""


def measure(
    dataset: Any, actions: str, settings: dict[str, Any], num_workers: int, num_frames: int
) -> float:
    """Frames per second of shuffled batches, once the workers are under way."""
    loader = torch.utils.data.DataLoader(
        dataset, settings["batch_size"], shuffle=True, num_workers=num_workers
    )
    batches, frames = iter(loader), 0
    for _ in islice(batches, 2 * num_workers + 1):
        pass
    start = time.perf_counter()
    for batch in batches:
        frames += len(batch[actions]) * len(settings["views"])
        if frames >= num_frames:
            break
    return frames / (time.perf_counter() - start)


def main(peer: str, folder: Path) -> None:
    """Write the peer's files, then measure as often as is asked for."""
    write, open_dataset, actions = PEERS[peer]
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(1)
    with redirect_stdout(sys.stderr):  # the answers have it for themselves
        recordings = [np.load(folder / f"{number}.npz") for number in range(settings["recordings"])]
        write(folder, settings, recordings)
        dataset = open_dataset(folder, settings)
    print("written", flush=True)
    while line := sys.stdin.readline().strip():
        num_workers, num_frames = map(int, line.split())
        print(measure(dataset, actions, settings, num_workers, num_frames), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
