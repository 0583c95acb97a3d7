"""Small recordings in ManiSkill's format, all of whose frames differ."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

REAL = Path(__file__).parent / "maniskill/trajectory.rgb.pd_joint_pos.physx_cpu.h5"


@pytest.fixture
def real() -> Path:
    return REAL


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., str]:
    """Write a recording; episode e at step t has pixels (e, t, 0) and actions (e, t, …)."""

    def write(
        name="demos.h5",
        steps=(7, 12, 5),
        side=8,
        dim=3,
        mode="pd_joint_pos",
        chunk=4,
        task="PushCube-v1",
        first=0,
    ) -> str:
        path = tmp_path / name
        episodes = []
        with h5py.File(path, "w") as file:
            for e, length in enumerate(steps, start=first):
                t = np.arange(length + 1)
                pixels = np.zeros((length + 1, side, side, 3), np.uint8)
                pixels[..., 0], pixels[..., 1] = e, t[:, None, None]
                actions = np.zeros((length, dim), np.float32)
                actions[:, 0], actions[:, 1] = e, t[:-1]
                qpos = np.stack([np.full(length + 1, e), t], axis=1).astype(np.float32)
                group = file.create_group(f"traj_{e}")
                group["actions"] = actions
                group["obs/agent/qpos"] = qpos
                group["obs/extra/is_grasped"] = t % 2 == 0
                group["obs/sensor_param/cam/intrinsic_cv"] = np.tile(np.eye(3), (length + 1, 1, 1))
                group.create_dataset(
                    "obs/sensor_data/cam/rgb",
                    data=pixels,
                    chunks=(min(chunk, length + 1), side, side, 1),
                    compression="gzip",
                )
                entry = {"episode_id": e, "elapsed_steps": length, "control_mode": mode}
                episodes.append({**entry, "success": True})
        sidecar = {"env_info": {"env_id": task, "env_kwargs": {}}, "episodes": episodes}
        path.with_suffix(".json").write_text(json.dumps(sidecar))
        return str(path)

    return write
