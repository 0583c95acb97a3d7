"""The gym-aloha experiments train on ACT's files."""

import h5py
import pytest
from test_experiments_files import EXPERIMENTS, fit

from recorders import write_act


@pytest.mark.slow
@pytest.mark.parametrize(
    "overlay", [None, "aloha/AlohaInsertion-v0.yaml"], ids=["transfer", "insertion"]
)
def test_aloha_experiment_trains(tmp_path, overlay):
    for seed in range(2):
        path = tmp_path / f"episode_{seed}.hdf5"
        write_act(path, steps=60, seed=seed)
        with h5py.File(path, "a") as file:
            for name in ("action", "observations/qpos"):
                file[name][...] = file[name][...] / 10  # joints do not jump by π
    demos = f"{{path: {tmp_path}/*.hdf5, instruction: Insert the peg into the socket.}}"
    configs = [EXPERIMENTS / name for name in ("aloha.yaml", overlay) if name]
    assert fit(demos, tmp_path / "run", *configs) == 2
