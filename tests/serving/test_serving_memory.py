"""Large requests leave the memory of the process as it was."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from e0_lightning.serving.memory import return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if {is_set}:
    assert return_large_blocks()
bytes(24 * 2**20)
before = resident()
blocks = []
for _ in range(6):
    blocks.append(bytearray(b"1") * (20 * 2**20))
    blocks.append(bytearray(b"1") * 2**16)  # keeps what lies before it in the heap
del blocks[::2]
print((resident() - before) // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_large_blocks_are_returned_when_they_are_freed():
    kept = {}
    for is_set in (True, False):
        command = [sys.executable, "-c", SCRIPT.format(is_set=is_set)]
        kept[is_set] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert kept[True] < 10
    assert kept[False] > 80  # what is prevented
