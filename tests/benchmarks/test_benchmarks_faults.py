import shutil

import h5py
import numpy as np
import pytest

from e0_lightning.benchmarks.faults.benchmark import benchmark
from e0_lightning.benchmarks.faults.commands import Ended, refusal
from e0_lightning.benchmarks.faults.files import FileReader, demos_hash
from e0_lightning.benchmarks.faults.results import Results, Trial
from e0_lightning.benchmarks.faults.samples import write_demonstrations


@pytest.mark.slow
def test_damaged_files_are_read_right_or_refused(capsys):
    benchmark(flips=3, truncations=2, only=["files"])
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "| 0 |" in line]
    assert len(table) == 8  # two kinds of damage to four kinds of files
    assert sum(int(row[1]) + int(row[2]) for row in table) == 4 * 3 + 4 * 2


def test_a_reader_that_dies_is_replaced(tmp_path):
    write_demonstrations(tmp_path / "demos.h5")
    with FileReader() as reader:
        expected = "values", demos_hash(tmp_path / "demos.h5")
        assert reader.read(tmp_path / "demos.h5") == expected
        reader._worker.process.kill()
        assert reader.read(tmp_path / "demos.h5") == ("crash", "the process died")
        assert reader.read(tmp_path / "demos.h5") == expected


def test_the_hash_covers_images_and_actions(tmp_path):
    path, changed = tmp_path / "demos.h5", tmp_path / "changed.h5"
    write_demonstrations(path)
    for source in (path, path.with_suffix(".json")):
        shutil.copy(source, changed.with_suffix(source.suffix))
    assert demos_hash(changed) == demos_hash(path)
    for name in ("traj_0/actions", "traj_0/obs/sensor_data/base_camera/rgb"):
        with h5py.File(changed, "r+") as file:
            values = file[name][()]
            file[name][...] = np.flip(values, axis=0)
        assert demos_hash(changed) != demos_hash(path)
        with h5py.File(changed, "r+") as file:
            file[name][...] = values


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (Ended(1, "lightning: demos.h5: expected …"), "clear error"),
        (Ended(1, "Traceback …\nKeyError: 3"), "crashed"),
        (Ended(-11, ""), "crashed"),
        (Ended(None, ""), "hung"),
    ],
)
def test_only_one_paragraph_of_ours_is_a_clear_error(ended, outcome):
    assert refusal(ended).outcome == outcome


def test_failures_are_counted_and_printed(capsys):
    results = Results()
    results.add("a", Trial("read right"), 3)
    results.add("a", Trial("wrong", "byte 7"))
    results.skip("b", "no renderer")
    assert results.failures == 1
    assert "a: wrong: byte 7" in capsys.readouterr().out
    assert "| a | 3 | 0 | 1 | 0 | 0 |" in results.table()
    assert "| b | skipped: no renderer |" in results.table()
