"""`e0 benchmark data`: reading speed beside plain library calls and the loaders of peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from e0_lightning.benchmarks.data_files import STORAGES, record, write_file
from e0_lightning.benchmarks.data_plain import BareWorker, PlainFrames
from e0_lightning.benchmarks.data_rates import LoaderEpochs, rate
from e0_lightning.benchmarks.peer_process import PeerProcess
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.sources import DemoSource, find_demos
from e0_lightning.types import ViewSize

WORKERS = (0, 1)
RATIOS = (
    ("workers_0", "plain"),
    ("workers_0", "plain_batches"),
    ("workers_1", "plain"),
    ("workers_1", "plain_worker"),
)
HORIZON = 12
MIN_BATCHES = 5
"""Batches that are measured at least: those that workers read ahead, and some more."""

Rates = dict[str, float]
"""Column of the table to frames per second or their ratio."""

Measure = Callable[[], float]


def benchmark(
    path: str,
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    num_frames: int = 600,
    rounds: int = 5,
    lerobot: str | None = None,
    robomimic: str | None = None,
) -> dict[str, Rates]:
    """Measure the training loader beside plain reads of the same frames, in each storage.

    The first frames of the demonstrations are written to temporary files as raw, gzip, JPEG and PNG
    frames. Everything is measured in turn, in short rounds and on one thread, and medians are
    compared: then other work on the machine changes the ratios little. Workers and their memory
    stay from round to round, as in a training run.

    The plain calls are h5py's read of one step, ``dataset[step]``, and torchvision's decoding, for
    each frame of the loader in the same order.

    Args:
        path: A file of demonstrations, or a pattern of several.
        size: Rows and columns of the images; None for the recorded frames.
        batch_size: Samples in a batch.
        num_frames: Frames of each storage that are written; the loaders of peers read as many in a
            round.
        rounds: Number of rounds.
        lerobot: Interpreter of an environment with LeRobot, whose loader is measured on videos of
            the same frames.
        robomimic: Interpreter of an environment with robomimic, whose loader is measured on raw
            frames; it does not resize them.

    Returns:
        Storage to frames per second: of the plain calls on frames that are dropped (``plain``),
        of the same into the array of a batch, resized where ``size`` says so (``plain_batches``),
        of the same in a bare worker process into shared memory (``plain_worker``), of the loader
        without and with one worker (``workers_0``, ``workers_1``), and the ratios of these.

    Raises:
        ValueError: If there are too few steps.
        RuntimeError: If the loader of a peer cannot be run.
    """
    threads = torch.get_num_threads()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)  # as in workers
        first = Loading(path, None, batch_size)
        recordings = list(record(first.demos(0), num_frames // len(first.views)))
        steps = sum(len(recording.actions) for recording in recordings)
        if steps < MIN_BATCHES * batch_size:
            raise ValueError(
                f"expected at least {MIN_BATCHES * batch_size} steps, {MIN_BATCHES} batches, got "
                f"{steps}. Give more demonstrations, a larger num_frames or a smaller batch_size."
            )
        files = {"as recorded": path}
        for storage in STORAGES:
            files[storage] = f"{folder}/{storage}.hdf5"
            write_file(files[storage], recordings, storage)
        measured = {
            storage: _measures(Loading(file, size, batch_size), stack)
            for storage, file in files.items()
        }
        for peer, python in {"LeRobot": lerobot, "robomimic": robomimic}.items():
            if python is not None:
                other = PeerProcess(
                    peer, python, Path(folder, peer), recordings, size, batch_size, HORIZON
                )
                stack.enter_context(other)
                measured[peer] = {
                    f"workers_{workers}": partial(other.rate, workers, num_frames)
                    for workers in WORKERS
                }
        rates = _measure_in_turn(measured, rounds)
    results = {storage: _with_ratios(found) for storage, found in rates.items()}
    print(table(results))
    return results


class Loading:
    """How the demonstrations of a file are loaded."""

    def __init__(self, path: str, size: tuple[int, int] | None, batch_size: int) -> None:
        self.source = DemoSource(path, instruction="benchmark")
        reader = self.source.open(find_demos(self.source)[0])
        self.views, self.state = list(reader.spec.views), list(reader.spec.state)
        reader.close()
        self.size = None if size is None else ViewSize(*size)
        self.batch_size = batch_size

    def demos(self, num_workers: int) -> RobotDemos:
        """A data module with nothing in memory."""
        return RobotDemos(
            [self.source],
            dict.fromkeys(self.views, self.size),
            self.state,
            HORIZON,
            self.batch_size,
            num_workers,
            val_fraction=0,
        )


def _measures(loading: Loading, stack: ExitStack) -> dict[str, Measure]:
    """Column to what measures it."""
    worker = stack.enter_context(BareWorker(partial(loading.demos, 0)))
    plain = PlainFrames(loading.demos(0))
    epochs: dict[str, Callable[[], Iterator[int]]] = {
        "plain": plain.dropped,
        "plain_batches": plain.batched,
        "plain_worker": worker.batches,
        **{f"workers_{workers}": LoaderEpochs(loading.demos(workers)) for workers in WORKERS},
    }
    return {column: partial(rate, epoch) for column, epoch in epochs.items()}


def _measure_in_turn(measured: dict[str, dict[str, Measure]], rounds: int) -> dict[str, Rates]:
    """Medians of some rounds, in each of which everything is measured once."""
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for storage, measures in measured.items():
            for column, measure in measures.items():
                found.setdefault(storage, {}).setdefault(column, []).append(measure())
    return {
        storage: {column: median(values) for column, values in columns.items()}
        for storage, columns in found.items()
    }


def _with_ratios(rates: Rates) -> Rates:
    """Add the ratios of the loader's rates to the plain ones."""
    ratios = {
        f"{loader}/{plain}": rates[loader] / rates[plain]
        for loader, plain in RATIOS
        if plain in rates
    }
    return rates | ratios


def table(results: dict[str, Rates]) -> str:
    """Markdown table: a row for each storage."""
    columns = list(dict.fromkeys(column for rates in results.values() for column in rates))
    rows = [["frames", *columns], ["---"] * (len(columns) + 1)]
    for storage, rates in results.items():
        cells = [f"{rates[name]:.3g}" if name in rates else "" for name in columns]
        rows.append([storage, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
