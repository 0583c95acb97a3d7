import pytest

from e0_lightning.benchmarks.latency import Timing
from e0_lightning.benchmarks.serving import Load
from e0_lightning.cli import all_benchmarks
from e0_lightning.cli.all_benchmarks import benchmark_all

TIMINGS = [
    Timing("inference", 0.02, 0.01, 0.005, 10**9, ["flash (cpu)"]),
    Timing("training step, batch 2", 0.3, None, 0.1, 10**10, []),
    Timing("viewpoint warp, 2 images", 0.004, 0.002, 0.001, 0, [], "bilinear sampling"),
]
OWN = {
    "plain": 1000.0,
    "plain_batches": 900.0,
    "plain_worker": 875.0,
    "workers_0": 810.0,
    "workers_1": 700.0,
}
FRAMES = {
    "JPEG": OWN,
    "raw": OWN,
    "LeRobot": {"workers_0": 100.0, "workers_1": 140.0},
    "robomimic": {"workers_0": 405.0, "workers_1": 350.0},
}
LOADS = [Load(0, per_second, 0, 0, 0, (), 0, {}) for per_second in (800.0, 50.0)]


@pytest.fixture
def rows(monkeypatch, tmp_path):
    """The table of given measurements, as cells."""
    for name, result in (
        ("time_experiment", TIMINGS),
        ("benchmark_data", FRAMES),
        ("benchmark_serving", LOADS),
    ):
        monkeypatch.setattr(all_benchmarks, name, lambda *args, result=result, **kwargs: result)
    out = tmp_path / "results" / "benchmark.md"
    benchmark_all(["--config=maniskill.yaml"], "demos.hdf5", out)
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in out.read_text().splitlines()[2:]
    ]


def test_each_value_stands_beside_its_limits_and_peers(rows):
    ratios = [(row[0], row[3], row[5]) for row in rows]
    assert ratios == [
        ("inference", "its matrix products and attention alone", "2.00"),
        ("inference", "its operations and bytes at the machine's speed", "4.00"),
        ("training step, batch 2", "its operations and bytes at the machine's speed", "3.00"),
        ("viewpoint warp, 2 images", "its bilinear sampling alone", "2.00"),
        ("viewpoint warp, 2 images", "its operations and bytes at the machine's speed", "4.00"),
        ("frames read, JPEG, workers: 0", "plain library calls", "0.81"),
        ("frames read, JPEG, workers: 0", "the same into batches", "0.90"),
        ("frames read, JPEG, workers: 0", "LeRobot, video", "8.10"),
        ("frames read, JPEG, workers: 1", "plain library calls", "0.70"),
        ("frames read, JPEG, workers: 1", "the same in a bare worker", "0.80"),
        ("frames read, JPEG, workers: 1", "LeRobot, video", "5.00"),
        ("frames read, raw, workers: 0", "plain library calls", "0.81"),
        ("frames read, raw, workers: 0", "the same into batches", "0.90"),
        ("frames read, raw, workers: 0", "LeRobot, video", "8.10"),
        ("frames read, raw, workers: 0", "robomimic, raw", "2.00"),
        ("frames read, raw, workers: 1", "plain library calls", "0.70"),
        ("frames read, raw, workers: 1", "the same in a bare worker", "0.80"),
        ("frames read, raw, workers: 1", "LeRobot, video", "5.00"),
        ("frames read, raw, workers: 1", "robomimic, raw", "2.00"),
        ("responses, 32 clients, forward pass of 20 ms", "the same without batching", "16.00"),
        ("responses, 32 clients, forward pass of 20 ms", "32 responses a forward pass", "0.50"),
    ]


def test_values_have_their_units(rows):
    assert rows[0][1:5] == ["ms", "20", "its matrix products and attention alone", "10"]
    assert rows[5][1:5] == ["1/s", "810", "plain library calls", "1000"]
