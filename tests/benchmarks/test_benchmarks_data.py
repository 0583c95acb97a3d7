import sys

import numpy as np
import pytest

from e0_lightning.benchmarks import data_rates, peer_process
from e0_lightning.benchmarks.data import RATIOS, Loading, benchmark
from e0_lightning.benchmarks.data_files import STORAGES, record, write_file
from e0_lightning.benchmarks.data_plain import BareWorker, PlainFrames, read_batch

RATES = ["plain", "plain_batches", "plain_worker", "workers_0", "workers_1"]


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    monkeypatch.setattr(data_rates, "MIN_SECONDS", 1e-6)


def test_every_storage_is_measured_beside_plain_calls(demos, capsys):
    results = benchmark(str(demos), size=(64, 48), batch_size=8, num_frames=64, rounds=1)
    assert list(results) == ["as recorded", *STORAGES]
    for rates in results.values():
        assert list(rates)[:5] == RATES
        for loader, plain in RATIOS:
            assert rates[f"{loader}/{plain}"] == rates[loader] / rates[plain] > 0
    assert "| as recorded |" in capsys.readouterr().out


@pytest.mark.parametrize("storage", ["raw", "JPEG"])
def test_plain_calls_read_the_frames_of_the_loader_in_its_order(demos, tmp_path, storage):
    first = Loading(str(demos), None, 8)
    path = str(tmp_path / "demos.hdf5")
    write_file(path, list(record(first.demos(0), 64)), storage)
    module = Loading(path, None, 8).demos(0)
    plain = PlainFrames(module)
    for frames, batch in zip(plain.batches, module.train_dataloader(), strict=True):
        images = [np.empty(shape, np.uint8) for shape in plain.shapes]
        read_batch(frames, images)
        for read, expected in zip(images, batch["images"].values(), strict=True):
            np.testing.assert_array_equal(read, expected.movedim(1, 3))


def test_a_bare_worker_goes_on_after_an_epoch_that_ended_early(demos):
    loading = Loading(str(demos), None, 8)
    with BareWorker(lambda: loading.demos(0)) as worker:
        for _ in range(5):
            assert next(worker.batches()) == 8
        assert len(list(worker.batches())) == worker.count


@pytest.mark.parametrize("peer", ["LeRobot", "robomimic"])
def test_a_peers_loader_is_measured_by_its_interpreter(demos, monkeypatch, tmp_path, peer):
    script = tmp_path / "loader.py"
    script.write_text("print('written', flush=True)\nwhile input():\n    print(7.5, flush=True)\n")
    monkeypatch.setattr(peer_process, "SCRIPT", script)
    options = {peer.lower(): sys.executable}
    results = benchmark(str(demos), batch_size=2, num_frames=16, rounds=1, **options)
    assert results[peer] == {"workers_0": 7.5, "workers_1": 7.5}


@pytest.mark.parametrize("peer", ["lerobot", "robomimic"])
def test_an_interpreter_without_the_peer_is_named(demos, peer):
    with pytest.raises(RuntimeError, match=rf"ended with status 1.*pip install {peer}=="):
        benchmark(str(demos), batch_size=2, num_frames=16, rounds=1, **{peer: sys.executable})


def test_too_few_steps_are_refused(demos):
    with pytest.raises(ValueError, match="expected at least 320 steps, 5 batches, got 128"):
        benchmark(str(demos), batch_size=64)
