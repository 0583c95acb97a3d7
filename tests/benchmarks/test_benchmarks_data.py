import sys

import pytest

from e0_lightning.benchmarks.data import benchmark


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_blocks_are_decoded_about_once(demos, num_workers):
    report = benchmark(str(demos), num_workers=num_workers, batch_size=16, horizon=4)
    assert (report["demos"], report["frames"]) == (2, 128)
    assert 1 <= report["decodes_per_block"] <= (1 if num_workers == 0 else 1.13)
    assert report["loader_frames_per_second"] > 0
