"""Each hazard is found where it was put, and nowhere else."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from e0_lightning.actions.normalizers import QuantileNormalizer
from e0_lightning.data.sources import DemoSource
from e0_lightning.inspection.demo_set import DemoSet, read_sources
from e0_lightning.inspection.hazards import find_hazards
from e0_lightning.inspection.key_map_proposal import propose_key_map
from e0_lightning.inspection.motion import estimate_lag
from e0_lightning.inspection.statistics import measure
from lab_recording import RATE, write_lab


@pytest.fixture
def load(tmp_path):
    """Write a recording and read it by the key map that is proposed for it."""

    def write(change=None, time=False, **options) -> DemoSet:
        path = write_lab(tmp_path / "runs.h5", edit=change, **options)
        with h5py.File(path) as file:
            text = propose_key_map(file)
        if time:
            text = text.replace("state:\n", "state:\n  timestamp: robot/timestamp\n")
        Path(tmp_path / "lab.yaml").write_text(text)
        (demo_set,) = read_sources([DemoSource(path, key_map=str(tmp_path / "lab.yaml"))]).sets
        return demo_set

    return write


def kinds(demo_set) -> list[str]:
    return [line.split(":")[0] for line in find_hazards(demo_set)]


def test_clean_demonstrations_have_no_hazard(load):
    assert kinds(load()) == []


def test_a_proposed_key_map_reads_the_file(load, tmp_path):
    demo_set = load()
    key_map = yaml.safe_load((tmp_path / "lab.yaml").read_text())
    assert key_map["images"] == {"front": "cameras/front/rgb", "wrist": "cameras/wrist/rgb"}
    assert demo_set.spec.state == {"gripper": 1, "joint_angles": 6}
    assert (demo_set.spec.action_dim, demo_set.rate) == (7, RATE)
    assert demo_set.first.instruction("runs/run_000") == "put the cup on the shelf"
    assert len(demo_set.demos) == 4


@pytest.mark.parametrize("lag", [-2, 0, 3])
def test_the_lag_from_action_to_motion_is_found(load, lag):
    demo_set = load(lag=lag)
    found = estimate_lag(demo_set)
    assert (found.steps, found.is_delta) == (lag, False)
    assert ("lag" in kinds(demo_set)) == (lag < 0)


def test_displacements_are_distinguished_from_targets(load):
    def change(file):
        for run in file["runs"].values():
            joints = run["robot/joint_angles"][()]
            run["command"][:-1, :6] = 10 * np.diff(joints, axis=0)

    found = estimate_lag(load(change))
    assert (found.steps, found.is_delta) == (0, True)


def test_copies_still_steps_and_still_dimensions_are_named(load):
    def change(file):
        for run in file["runs"].values():
            run["command"][:, 2] = 0.5
        file["runs/run_001/command"][:20] = file["runs/run_001/command"][20]
        file["runs/run_002/command"][:20] = file["runs/run_002/command"][20]
        file["runs/run_003/command"][...] = file["runs/run_000/command"][()]

    demo_set = load(change)
    lines = dict(line.split(": ", 1) for line in find_hazards(demo_set))
    assert "no motion in actions[2]" in lines["constant"]
    assert "runs/runs/run_000 = runs/runs/run_003" in lines["duplicates"]
    assert lines["no-ops"].startswith("at 21% of the steps targets do not change, 10.5")


def test_jumps_of_state_and_time_and_wrapping_angles_are_named(load):
    def change(file):
        file["runs/run_001/robot/joint_angles"][30:, 1] += 3
        file["runs/run_002/robot/timestamp"][40:] += 1
        angles = np.linspace(0, 9, 50)
        file["runs/run_003/robot/joint_angles"][:, 4] = (angles + np.pi) % (2 * np.pi) - np.pi

    lines = dict(line.split(": ", 1) for line in find_hazards(load(change, time=True)))
    assert "run_001 step 30 (joint_angles[1] by" in lines["jumps"]
    assert "run_002 step 40 (timestamp by" in lines["time"]
    assert lines["angles"].startswith("joint_angles[4] wraps")


def test_rare_large_actions_are_clipped(load):
    def change(file):
        file["runs/run_000/command"][10, 3] = 20

    lines = dict(line.split(": ", 1) for line in find_hazards(load(change)))
    assert lines["clipping"].startswith("values of actions[3] lie outside")


def test_errors_of_quantization_are_those_of_the_bins():
    values = np.random.default_rng(0).uniform(-3, 5, (4000, 1)).astype(np.float32)
    (dimension,) = measure(values, ["x"])
    low, high = np.quantile(values, [0.01, 0.99])
    outside = (values < low) | (values > high)
    assert dimension.clipped == pytest.approx(outside.mean(), abs=1e-3)
    beyond = np.maximum(low - values, values - high)[outside].sum() / len(values)
    for bins, error in zip((64, 256, 2048), dimension.errors, strict=True):
        assert error == pytest.approx((high - low) / bins / 4 * 0.98 + beyond, rel=0.1)
    assert QuantileNormalizer(1).fractions == (0.01, 0.99)
