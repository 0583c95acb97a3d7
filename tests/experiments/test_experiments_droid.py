"""The DROID experiment trains on files of its format."""

import pytest
from test_experiments_files import EXPERIMENTS, fit

from recorders import write_droid


@pytest.mark.slow
def test_droid_experiment_trains(tmp_path):
    for seed in range(2):
        write_droid(tmp_path / f"episode_{seed}", images=True, seed=seed)
    demos = tmp_path / "**/*.h5"
    assert fit(demos, tmp_path / "run", EXPERIMENTS / "droid.yaml") == 2
