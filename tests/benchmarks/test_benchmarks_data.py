import sys

import pytest

from e0_lightning.benchmarks import data_rates, lerobot_process
from e0_lightning.benchmarks.data import benchmark
from e0_lightning.benchmarks.data_files import STORAGES

RATES = ["plain", "plain_resized", "workers_0", "workers_1"]


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    monkeypatch.setattr(data_rates, "MIN_SECONDS", 1e-6)


def test_every_storage_is_measured_beside_plain_calls(demos, capsys):
    results = benchmark(str(demos), size=(64, 48), batch_size=8, num_frames=64, rounds=1)
    assert list(results) == ["as recorded", *STORAGES]
    for rates in results.values():
        assert [name for name in rates if "/" not in name] == RATES
        for workers in ("workers_0", "workers_1"):
            for plain in ("plain", "plain_resized"):
                assert rates[f"{workers}/{plain}"] == rates[workers] / rates[plain] > 0
    assert "| as recorded |" in capsys.readouterr().out


def test_lerobots_loader_is_measured_by_its_interpreter(demos, monkeypatch, tmp_path):
    script = tmp_path / "loader.py"
    script.write_text("print('written', flush=True)\nwhile input():\n    print(7.5, flush=True)\n")
    monkeypatch.setattr(lerobot_process, "SCRIPT", script)
    results = benchmark(str(demos), batch_size=2, num_frames=16, rounds=1, lerobot=sys.executable)
    assert results["LeRobot"] == {"workers_0": 7.5, "workers_1": 7.5}


def test_an_interpreter_without_lerobot_is_named(demos):
    with pytest.raises(RuntimeError, match=r"ended with status 1.*pip install lerobot"):
        benchmark(str(demos), batch_size=2, num_frames=16, rounds=1, lerobot=sys.executable)


def test_too_few_steps_are_refused(demos):
    with pytest.raises(ValueError, match="expected at least 320 steps, 5 batches, got 128"):
        benchmark(str(demos), batch_size=64)
