"""Files in the format of VLABench's ``save_single_data``, with a robot that reaches its targets.

As a script it writes an episode of 100 steps with smooth frames four times, to time reading:
``python tests/vlabench_recording.py data/vlabench/select_fruit/data_0.hdf5``.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np

BASE = [0.0, -0.4, 0.78]


def distinct_frames(length, side):
    """Frames ``(T, 4, S, S, 3)``: that of view v at step t has the colour (10 v, t, column)."""
    rgb = np.zeros((length, 4, side, side, 3), np.uint8)
    rgb[..., 0] = 10 * np.arange(4)[:, None, None]
    rgb[..., 1] = np.arange(length)[:, None, None, None]
    rgb[..., 2] = np.arange(side) % 256
    return rgb


def scene(length, side):
    """Frames of a shaded table over which a dark gripper and a red ball move."""
    rgb = np.zeros((length, 4, side, side, 3), np.uint8)
    across, down = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    for step in range(length):
        for view in range(4):
            angle = 0.04 * step + view
            table = 90 + 80 * down + 20 * np.sin(6 * across + view)
            shades = np.stack([table, 0.9 * table, 0.7 * table], axis=-1)
            for colour, radius, speed in (([200, 30, 30], 0.02, 0.5), ([40, 40, 45], 0.05, 1)):
                x, y = 0.5 + 0.3 * np.cos(speed * angle), 0.5 + 0.3 * np.sin(speed * angle)
                inside = 1 / (1 + ((across - x) ** 2 + (down - y) ** 2) / radius**2) ** 2
                shades += inside[..., None] * (np.array(colour) - shades)
            rgb[step, view] = shades
    return rgb


def record(path, steps=(14,), side=480, open_until=0.5, frames=distinct_frames, seed=0):
    """Append episodes to a file.

    The gripper points down, with a roll of about ±π, and reaches the target pose of the previous
    step. It is closed from the share `open_until` of an episode on.
    """
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "a") as file:
        for number, length in enumerate(steps):
            demo = file.require_group("data").create_group(f"2025-02-03 10:00:{number:02d}")
            targets = poses(length + 1, rng)
            closed = np.arange(length + 1) >= open_until * length
            observed = np.hstack(
                [targets[:-1, :3] + BASE, quaternions(targets[:-1, 3:]), closed[:-1, None]]
            )
            fingers = np.where(closed[1:, None], 0, 0.04) * np.ones(2)
            compressed = {"compression": "gzip", "compression_opts": 9}
            trajectory = np.hstack([targets[1:], fingers]).astype(np.float32)
            demo.create_dataset("trajectory", data=trajectory, **compressed)
            demo.create_dataset("instruction", data=np.array([b"Pick the apple"]).astype("S"))
            demo.create_dataset(
                "meta_info/episode_config", data=np.array(json.dumps({"task": {}}).encode())
            )
            demo.create_dataset("meta_info/entities", data=np.array([b"apple", b"plate"]))
            demo.create_dataset("meta_info/target_entity", data=np.array([b"apple"]))
            values_by_key = {"ee_state": observed, "q_state": rng.normal(size=(length, 7))}
            for key, values in values_by_key.items():
                values = values.astype(np.float32)
                demo.create_dataset(f"observation/{key}", data=values, **compressed)
            demo.create_dataset("observation/rgb", data=frames(length, side), **compressed)
    return path


def poses(count, rng):
    """Positions from the base and angles of a gripper that points down, ``(count, 6)``."""
    position = np.cumsum(rng.normal(0, 0.01, (count, 3)), axis=0) + np.array([0, 0.4, 0.3])
    angles = rng.normal([np.pi, 0, 0.5], 0.05, (count, 3))
    angles[:, 0] -= 2 * np.pi * (angles[:, 0] > np.pi)
    return np.hstack([position, angles])


def quaternions(angles):
    """Rotations about the fixed axes x, y, z as wxyz, by VLABench's ``euler_to_quaternion``."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles.T / 2), np.sin(angles.T / 2)
    return np.stack(
        [
            cx * cy * cz + sx * sy * sz,
            sx * cy * cz - cx * sy * sz,
            cx * sy * cz + sx * cy * sz,
            cx * cy * sz - sx * sy * cz,
        ],
        axis=1,
    )


if __name__ == "__main__":
    with h5py.File(record(Path(sys.argv[1]), steps=(100,), frames=scene), "a") as made:
        for number in range(1, 4):
            made.copy("data/2025-02-03 10:00:00", f"data/2025-02-03 10:00:{number:02d}")
