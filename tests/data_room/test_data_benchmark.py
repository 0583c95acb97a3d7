import sys

import pytest

from e0_lightning.benchmarks.data import benchmark


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_real_blocks_are_decoded_once(real, num_workers):
    report = benchmark(str(real), num_workers=num_workers, batch_size=16, horizon=4)
    assert (report["episodes"], report["frames"]) == (2, 128)
    assert 1 <= report["decodes_per_block"] <= (1 if num_workers == 0 else 1.13)
    assert report["loader_frames_per_s"] > 0
