"""Small recordings in ManiSkill's format, all of whose frames differ."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.sources import DemoSource

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


@pytest.fixture
def write_robomimic(tmp_path: Path) -> Callable[..., str]:
    """Write the smallest robomimic file, and change it with ``edit(file)``."""

    def write(name="demos.hdf5", demos=6, steps=24, side=16, edit=None, **storage) -> str:
        rng, path = np.random.default_rng(0), tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        controller = {"controller_configs": {"type": "JOINT_POSITION", "control_delta": False}}
        with h5py.File(path, "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = json.dumps({"env_kwargs": controller})
            for number in range(demos):
                demo = data.create_group(f"demo_{number}")
                demo["actions"] = rng.random((steps, 4), dtype=np.float32)
                demo["obs/joint_pos"] = rng.random((steps, 4), dtype=np.float32)
                frames = rng.integers(1, 255, (steps, side, side, 3), np.uint8)
                demo.create_dataset("obs/front_image", data=frames, **storage)
            if edit is not None:
                edit(file)
        return str(path)

    return write


@pytest.fixture
def robot_demos() -> Callable[..., RobotDemos]:
    """Create the data module of files that `write_robomimic` wrote, set up for training."""

    def create(*sources, **options) -> RobotDemos:
        entries = [
            source if isinstance(source, DemoSource) else DemoSource(source, instruction="go")
            for source in sources
        ]
        settings = {"horizon": 4, "batch_size": 4, "num_workers": 0, "val_fraction": 0.2}
        module = RobotDemos(entries, ["front"], ["joint_pos"], **{**settings, **options})
        module.setup("fit")
        return module

    return create
