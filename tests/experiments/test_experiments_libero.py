"""The LIBERO experiment, alone and in the paper's setting, trains on files of its format."""

import h5py
import numpy as np
import pytest
from test_experiments_files import EXPERIMENTS, fit

PARTS = {"ee_pos": 3, "ee_ori": 3, "gripper_states": 2, "joint_states": 7}


@pytest.fixture
def libero(tmp_path):
    """Random data in the format of a LIBERO file without no-ops."""
    generator = np.random.default_rng(0)
    path = tmp_path / "pick_up_the_milk_and_place_it_in_the_basket_demo.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(2):
            demo = file.create_group(f"data/demo_{number}")
            demo["actions"] = generator.uniform(-1, 1, (30, 7))
            for part, size in PARTS.items():
                demo[f"obs/{part}"] = generator.normal(size=(30, size))
            for view in ("agentview_rgb", "eye_in_hand_rgb"):
                demo[f"obs/{view}"] = generator.integers(0, 255, (30, 128, 128, 3), dtype=np.uint8)
    return path


@pytest.mark.parametrize(
    "overlays",
    [[], ["libero/three_tasks.yaml"], ["setting/paper.yaml"]],
    ids=["alone", "three tasks", "paper"],
)
def test_libero_experiment_trains(libero, tmp_path, overlays):
    configs = [EXPERIMENTS / name for name in ["libero.yaml", *overlays]]
    assert fit(libero, tmp_path / "run", *configs) == 2
