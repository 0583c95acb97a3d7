"""A recording of PushT by gym-pusht itself: random pushes, as its demonstrations are stored."""

import h5py
import numpy as np


def record(steps=40, seed=0):
    """Actions, positions of the disc, poses of the block, frames and keypoints."""
    from gym_pusht.envs import PushTEnv

    env = PushTEnv(obs_type="state")
    random = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    rows = {"actions": [], "agent_pos": [], "block_pose": [], "top_image": [], "keypoints": []}
    for step in range(steps):
        if step % 8 == 0:  # towards the block and through it
            action = np.asarray(env.block.position) + random.normal(scale=30, size=2)
        rows["actions"].append(action)
        rows["agent_pos"].append(observation[:2])
        rows["block_pose"].append(observation[2:])
        rows["top_image"].append(env._render())
        rows["keypoints"].append(env.get_keypoints(env._block_shapes).flatten())
        observation, *_ = env.step(action)
    types = {"top_image": np.uint8}
    return {name: np.array(values, types.get(name, np.float32)) for name, values in rows.items()}


def write(path, demos):
    """Write recordings as `e0 collect pusht` does."""
    with h5py.File(path, "w") as file:
        for index, rows in enumerate(demos):
            demo = file.create_group(f"data/demo_{index}")
            demo["actions"] = rows["actions"]
            for name in ("agent_pos", "block_pose", "top_image"):
                demo[f"obs/{name}"] = rows[name]
    return path
