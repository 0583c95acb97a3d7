"""`e0 benchmark all`: what is reached, beside a limit or a peer measured in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from e0_lightning.benchmarks.data import Rates
from e0_lightning.benchmarks.data import benchmark as benchmark_data
from e0_lightning.benchmarks.latency import Timing
from e0_lightning.benchmarks.serving import Echo, Load
from e0_lightning.benchmarks.serving import benchmark as benchmark_serving
from e0_lightning.cli.costs import time_experiment


class Comparison(NamedTuple):
    """A quantity, and what it is compared with."""

    quantity: str
    unit: str
    ours: float
    reference: str
    """What the other value is of."""
    theirs: float


def benchmark_all(
    experiment: list[str],
    demos: str,
    out: Path = Path("runs/benchmark.md"),
    num_frames: int = 400,
    seconds: float = 10.0,
    lerobot: str | None = None,
    robomimic: str | None = None,
) -> None:
    """Measure deciding, training, reading and serving, and write one table of ratios.

    Deciding and training are measured with the policy of the experiment beside its kernels alone
    and the machine's limits, reading beside plain library calls on the same frames, serving
    beside a server that answers one request at a time.

    Args:
        experiment: Options that describe it to ``lightning fit``: ``--config FILE``, and any of
            ``--trainer…``, ``--data…`` and ``--model…``.
        demos: A file of demonstrations to read, or a pattern of several.
        out: Markdown file to write.
        num_frames: Frames of each storage that are read in a round.
        seconds: Length of a run of the server.
        lerobot: Interpreter of an environment with LeRobot, to compare with its loader.
        robomimic: Interpreter of an environment with robomimic, to compare with its loader.

    Raises:
        ValueError: If the experiment or the demonstrations cannot be used.
    """
    rows = compare_times(time_experiment(experiment))
    rows += compare_reading(
        benchmark_data(demos, num_frames=num_frames, rounds=3, lerobot=lerobot, robomimic=robomimic)
    )
    rows += compare_serving(benchmark_serving(seconds=seconds))
    text = table(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    print(f"\n{text}\n{out}")


def compare_times(timings: list[Timing]) -> list[Comparison]:
    """Parts beside their kernels alone, and beside the machine's limits."""
    rows = []
    for timing in timings:
        quantity, milliseconds = timing.part, timing.seconds * 1e3
        if timing.floor is not None:
            floor = f"its {timing.kernels} alone"
            rows.append(Comparison(quantity, "ms", milliseconds, floor, timing.floor * 1e3))
        bound = "its operations and bytes at the machine's speed"
        rows.append(Comparison(quantity, "ms", milliseconds, bound, timing.lower_bound * 1e3))
    return rows


PLAIN_CALLS = {
    "workers_0": {"plain": "plain library calls", "plain_batches": "the same into batches"},
    "workers_1": {"plain": "plain library calls", "plain_worker": "the same in a bare worker"},
}
"""Column of the loader to the columns that it stands beside, and what these are."""

PEERS = {
    "LeRobot": ("LeRobot, video", ("as recorded", "raw", "gzip", "JPEG", "PNG")),
    "robomimic": ("robomimic, raw", ("raw",)),
}
"""Row of a peer's loader to what it read, and the storages that it stands beside."""


def compare_reading(measured: dict[str, Rates]) -> list[Comparison]:
    """The loader beside plain calls on each storage, and beside peers that were measured."""
    measured = dict(measured)
    peers = {peer: measured.pop(peer) for peer in PEERS if peer in measured}
    rows = []
    for storage, found in measured.items():
        for workers, references in PLAIN_CALLS.items():
            quantity = f"frames read, {storage}, {workers.replace('_', ': ')}"
            others = {name: found[column] for column, name in references.items()}
            for peer, rates in peers.items():
                name, storages = PEERS[peer]
                if storage in storages:
                    others[name] = rates[workers]
            rows += [
                Comparison(quantity, "1/s", found[workers], name, value)
                for name, value in others.items()
            ]
    return rows


def compare_serving(loads: list[Load]) -> list[Comparison]:
    """Responses a second with batching beside those without, and the limit of a forward pass."""
    batched, single = (load.per_second for load in loads)
    quantity = "responses, 32 clients, forward pass of 20 ms"
    return [
        Comparison(quantity, "1/s", batched, "the same without batching", single),
        Comparison(quantity, "1/s", batched, "32 responses a forward pass", 32 / Echo().seconds),
    ]


def table(rows: list[Comparison]) -> str:
    """Markdown table with the ratios of our values to the others."""
    lines = ["| quantity | unit | ours | beside | value | ratio |", f"|{' --- |' * 6}"]
    for quantity, unit, ours, reference, theirs in rows:
        cells = [quantity, unit, _number(ours), reference, _number(theirs), f"{ours / theirs:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
