"""Files of demonstrations as their recorders write them, with random content.

Every function follows the published steps of one recorder: names, shapes, dtypes, chunks and
compression. Frames have a red patch in the upper left corner, so that a test sees swapped colors.
"""

import h5py
import numpy as np

RED = np.array([220, 20, 30], np.uint8)


def make_frames(rng, steps, height=48, width=64):
    """Smooth random frames ``(T, h, w, 3)`` uint8 RGB with a red patch."""
    coarse = rng.integers(0, 256, (steps, height // 8, width // 8, 3), np.uint8)
    frames = coarse.repeat(8, axis=1).repeat(8, axis=2)
    frames[:, : height // 3, : width // 3] = RED
    return frames


def write_act(path, steps=6, cameras=("top",), sim=True, seed=0):
    """One episode of ACT, as record_sim_episodes.py and record_episodes.py of ALOHA write it."""
    rng = np.random.default_rng(seed)
    recorded = {
        "/observations/qpos": rng.normal(size=(steps, 14)),
        "/observations/qvel": rng.normal(size=(steps, 14)),
        "/action": rng.normal(size=(steps, 14)),
    }
    if not sim:
        recorded["/observations/effort"] = rng.normal(size=(steps, 14))
    for name in cameras:
        recorded[f"/observations/images/{name}"] = make_frames(rng, steps, 480, 640)
    with h5py.File(path, "w", rdcc_nbytes=1024**2 * 2) as root:
        root.attrs["sim"] = sim
        obs = root.create_group("observations")
        image = obs.create_group("images")
        for name in cameras:
            image.create_dataset(name, (steps, 480, 640, 3), dtype="uint8", chunks=(1, 480, 640, 3))
        for name in ("qpos", "qvel") if sim else ("qpos", "qvel", "effort"):
            obs.create_dataset(name, (steps, 14), dtype="f4")  # h5py's default type
        root.create_dataset("action", (steps, 14), dtype="f4")
        for name, array in recorded.items():
            root[name][...] = array
    return recorded
