"""The PushT experiment, from states and from images, trains on files of its format."""

import pytest
from test_experiments_files import EXPERIMENTS, fit

from pusht_recording import record, write

pytest.importorskip("gym_pusht", reason="gym-pusht is not installed: pip install '.[pusht]'")


@pytest.fixture(scope="module")
def pusht(tmp_path_factory):
    demos = [record(steps=20, seed=seed) for seed in range(2)]
    return write(tmp_path_factory.mktemp("pusht") / "pusht.hdf5", demos)


@pytest.mark.slow
@pytest.mark.parametrize("overlay", [None, "pusht/images.yaml"], ids=["states", "images"])
def test_pusht_experiment_trains(pusht, tmp_path, overlay):
    configs = [EXPERIMENTS / name for name in ("pusht.yaml", overlay) if name]
    assert fit(pusht, tmp_path, *configs) == 2
