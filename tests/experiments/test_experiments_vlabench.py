"""The VLABench experiment trains on files of its format, in which the roll crosses from π to -π."""

import pytest
import yaml
from test_experiments_files import EXPERIMENTS, fit

from e0_lightning.actions.relative import RelativeActions
from e0_lightning.data.datamodule import RobotDemos
from vlabench_recording import record

EXPERIMENT = EXPERIMENTS / "vlabench.yaml"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return record(tmp_path_factory.mktemp("made") / "select_fruit" / "data_0.hdf5")


def test_vlabench_experiment_trains(demo, tmp_path):
    assert fit(demo, tmp_path / "run", EXPERIMENT) == 2


def test_relative_actions_are_small_where_the_roll_wraps_around(demo):
    settings = yaml.safe_load(EXPERIMENT.read_text())
    state = settings["data"]["init_args"]["state"]
    relative = RelativeActions(**settings["model"]["init_args"]["actions"]["relative"])
    demos = RobotDemos([str(demo)], ["front"], state, horizon=12, val_fraction=0)
    relative.resolve_state(demos.spec)
    actions, states, valid = next(demos.action_chunks())
    offsets = relative(actions, states)[valid]
    assert actions[..., 3].max() - actions[..., 3].min() > 6
    assert offsets[:, :6].abs().max() < 0.5
    assert offsets[:, 6].unique().tolist() == [0, 1]
