"""Peak memory of this process and its data loader workers, from Linux's ``/proc``."""

from __future__ import annotations

import os
import time
from multiprocessing import active_children
from pathlib import Path

DATA_MEMORY = ("Pss_Anon", "Pss_Shmem")
"""Memory without program code, shared pages divided among their processes."""

SAMPLING_INTERVAL = 0.5
"""Seconds between two measurements of memory."""


class PeakMemory:
    """Growth of the memory of this process and its workers together, shared pages once, MB."""

    def __init__(self) -> None:
        self._before = self._updated = self.growth = 0.0
        self._before = _memory(os.getpid())

    def update(self) -> None:
        """Measure, unless the last measurement is recent."""
        if time.perf_counter() - self._updated < SAMPLING_INTERVAL:
            return
        pids = [os.getpid(), *(child.pid for child in active_children() if child.pid)]
        self.growth = max(self.growth, sum(map(_memory, pids)) - self._before)
        self._updated = time.perf_counter()


def _memory(pid: int) -> float:
    """Memory of a process in MB, as the sum of `DATA_MEMORY` in its ``smaps_rollup``."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {kind: float(size) for kind, size, _ in (line.split() for line in lines)}
    return sum(sizes[f"{kind}:"] for kind in DATA_MEMORY) / 1024
