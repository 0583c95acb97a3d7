"""The VLABench experiment trains on files of its format, in which the roll crosses from π to -π."""

import pytest
import torch
import yaml
from scipy.spatial.transform import Rotation
from test_experiments_files import EXPERIMENTS, fit

from e0_lightning.actions.relative import RelativeActions, RelativeRotation
from e0_lightning.data.datamodule import RobotDemos
from vlabench_recording import record

EXPERIMENT = EXPERIMENTS / "vlabench.yaml"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return record(tmp_path_factory.mktemp("made") / "select_fruit" / "data_0.hdf5")


def test_vlabench_experiment_trains(demo, tmp_path):
    assert fit(demo, tmp_path / "run", EXPERIMENT) == 2


def test_relative_poses_are_small_rotations_where_the_roll_wraps_around(demo):
    settings = yaml.safe_load(EXPERIMENT.read_text())
    state = settings["data"]["init_args"]["state"]
    options = settings["model"]["init_args"]["actions"]["relative"]
    options["rotations"] = [RelativeRotation(**each) for each in options["rotations"]]
    relative = RelativeActions(**options)
    demos = RobotDemos([str(demo)], ["front"], state, horizon=12, val_fraction=0)
    relative.resolve_state(demos.spec)
    actions, states, valid = next(demos.action_chunks())
    offsets = relative(actions, states)
    assert actions[..., 3].max() - actions[..., 3].min() > 6
    assert offsets[valid][:, :6].abs().max() < 0.5
    assert offsets[valid][:, 6].unique().tolist() == [0, 1]
    turned = Rotation.from_rotvec(offsets[:, 0, 3:6]) * Rotation.from_euler("xyz", states[:, 3:6])
    targets = Rotation.from_euler("xyz", actions[:, 0, 3:6])
    assert (turned * targets.inv()).magnitude().max() < 1e-5
    torch.testing.assert_close(offsets[..., :3], actions[..., :3] - states[:, None, :3])
