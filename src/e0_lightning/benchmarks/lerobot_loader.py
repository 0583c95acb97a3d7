"""Reading speed of LeRobot's loader on videos; run by an environment with LeRobot, without ours.

Usage: ``lerobot_loader.py FOLDER``, where ``settings.json`` describes the recordings ``0.npz``,
``1.npz`` and so on. It prints a line when the videos are written. Then each line of its input, a
number of workers and of frames, is answered by a line with frames per second, until an empty one.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

FPS = 20
NAME = "benchmark"


def write(folder: Path, settings: dict[str, Any]) -> None:
    """Write the recordings as a data set of videos, with LeRobot's default codec."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    views = {view: f"observation.images.{view}" for view in settings["views"]}
    recordings = [np.load(folder / f"{number}.npz") for number in range(settings["recordings"])]
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


def measure(folder: Path, settings: dict[str, Any], num_workers: int, num_frames: int) -> float:
    """Frames per second of shuffled batches, once the workers are under way."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torchvision.transforms.v2 import Resize

    dataset = LeRobotDataset(
        NAME,
        root=folder / "lerobot",
        image_transforms=Resize(settings["size"]) if settings["size"] else None,
        delta_timestamps={"action": [step / FPS for step in range(settings["horizon"])]},
        video_backend="pyav",
    )
    loader = torch.utils.data.DataLoader(
        dataset, settings["batch_size"], shuffle=True, num_workers=num_workers
    )
    batches, frames = iter(loader), 0
    for _ in islice(batches, 2 * num_workers + 1):
        pass
    start = time.perf_counter()
    for batch in batches:
        frames += len(batch["action"]) * len(settings["views"])
        if frames >= num_frames:
            break
    return frames / (time.perf_counter() - start)


def main(folder: Path) -> None:
    """Write the videos, then measure as often as is asked for."""
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(1)
    write(folder, settings)
    print("written", flush=True)
    while line := sys.stdin.readline().strip():
        num_workers, num_frames = map(int, line.split())
        print(measure(folder, settings, num_workers, num_frames), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
