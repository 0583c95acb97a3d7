"""Files of a recorder that nobody knows: a six-joint arm with gripper and two cameras."""

import h5py
import numpy as np

CAMERAS = {"front": (48, 64), "wrist": (40, 40)}
RATE = 15.0


def smooth(rng, steps, dims, speed=0.02):
    """Random motion ``(T, dims)`` that is smooth, as of a robot."""
    velocity = np.cumsum(rng.normal(size=(steps + 20, dims)), axis=0)
    kernel = np.ones(10) / 10
    velocity = np.stack([np.convolve(v, kernel, "valid") for v in velocity.T], axis=1)[:steps]
    return np.cumsum(speed * velocity / np.abs(velocity).max(axis=0), axis=0)


def write_lab(path, demos=4, steps=50, lag=0, seed=0, edit=None):
    """Write joint targets that the joints reach a step later, and ``lag`` steps after that."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["robot"] = "six joints"
        for number in range(demos):
            demo = file.create_group(f"runs/run_{number:03d}")
            demo.attrs["language"] = "put the cup on the shelf"
            motion = smooth(rng, steps + 21, 6)
            closed = (np.arange(steps) > steps // 2).astype(float)
            demo["command"] = np.column_stack([motion[11 : steps + 11], closed])
            joints = motion[10 - lag : steps + 10 - lag]
            demo["robot/joint_angles"] = joints + rng.normal(0, 1e-5, joints.shape)
            demo["robot/gripper"] = closed
            demo["robot/timestamp"] = 1.7e9 + np.arange(steps) / RATE
            for camera, size in CAMERAS.items():
                demo[f"cameras/{camera}/rgb"] = rng.integers(0, 255, (steps, *size, 3), np.uint8)
                demo[f"cameras/{camera}/depth"] = rng.random((steps, *size), np.float32)
        if edit is not None:
            edit(file)
    return str(path)
