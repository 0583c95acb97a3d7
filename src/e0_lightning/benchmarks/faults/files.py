"""Damaged files: flipped bits and truncations, read in a process of their own."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from e0_lightning.benchmarks.faults.results import Trial
from e0_lightning.benchmarks.faults.samples import Samples
from e0_lightning.envs.worker_process import WorkerProcess

TIMEOUT = 60.0
"""Seconds after which reading counts as hung."""


def damaged_files(
    samples: Samples, folder: Path, rng: np.random.Generator, flips: int, truncations: int
) -> Iterator[tuple[str, Trial]]:
    """Flip one bit, or cut the end off, and read all that the file holds.

    Yields:
        Fault and outcome.
    """
    sidecar = samples.demos.with_suffix(".json")
    files = [
        ("demonstrations", samples.demos, samples.demos),
        ("their sidecar", sidecar, samples.demos),
        ("checkpoint", samples.checkpoint, samples.checkpoint),
        ("predictions", samples.predictions, samples.predictions),
    ]
    folder.mkdir()
    with FileReader() as reader:
        for name, damaged, opened in files:
            copies = [Path(shutil.copy(each, folder)) for each in {damaged, opened, sidecar}]
            target, path = folder / damaged.name, folder / opened.name
            content, expected = damaged.read_bytes(), reader.read(path)
            if expected[0] != "values":
                raise RuntimeError(f"{path}: expected a whole file, got {expected}.")
            for _ in range(flips):
                position, bit = int(rng.integers(len(content))), int(rng.integers(8))
                changed = bytearray(content)
                changed[position] ^= 1 << bit
                target.write_bytes(changed)
                trial = _compare(reader.read(path), expected, f"bit {bit} of byte {position}")
                yield f"{name}: flipped bits", trial
            for _ in range(truncations):
                size = int(rng.integers(len(content)))
                target.write_bytes(content[:size])
                trial = _compare(reader.read(path), expected, f"first {size} bytes")
                yield f"{name}: truncations", trial
            for copy in copies:
                copy.unlink()


def _compare(read: tuple[str, str], expected: tuple[str, str], fault: str) -> Trial:
    kind, text = read
    if kind == "values":
        return Trial("read right" if read == expected else "wrong", fault)
    if kind == "error":
        return Trial("clear error")
    return Trial("hung" if kind == "hung" else "crashed", f"{fault}: {text}")


class FileReader:
    """Reads files in another process, which may crash or hang."""

    def __init__(self) -> None:
        self._worker = WorkerProcess(_work)

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.end()

    def read(self, path: Path) -> tuple[str, str]:
        """Read a file.

        Returns:
            ``values`` and their hash; ``error``, ``crash`` or ``hung`` and what happened.
        """
        connection = self._worker.connection
        answer = ("hung", f"not read in {TIMEOUT:.0f} s")
        try:
            connection.send(path)
            if connection.poll(TIMEOUT):
                answer = connection.recv()
        except (EOFError, ConnectionError):
            answer = ("crash", "the process died")
        if answer[0] == "hung" or answer == ("crash", "the process died"):
            self._worker.end()
            self._worker = WorkerProcess(_work)
        return answer


def _work(connection: Connection) -> None:
    while True:
        path = connection.recv()
        try:
            answer = ("values", file_hash(path))
        except ValueError as error:
            answer = ("error" if path.stem in str(error) else "crash", f"{error}")
        except Exception as error:
            answer = ("crash", f"{type(error).__name__}: {error}")
        connection.send(answer)


def file_hash(path: Path) -> str:
    """Hash of all that a file of demonstrations, predictions or a checkpoint holds.

    Raises:
        ValueError: If the file is damaged.
    """
    if path.suffix == ".ckpt":
        return _checkpoint_hash(path)
    return _predictions_hash(path) if path.name.startswith("rank_") else demos_hash(path)


def demos_hash(path: Path) -> str:
    """Hash of all that a reader returns of demonstrations."""
    from e0_lightning.data.formats.detect import open_demos

    reader = open_demos(str(path))
    parts: list[Any] = []
    try:
        for demo in reader.demos():
            parts += [demo.name, reader.instruction(demo.name)]
            for start in range(0, demo.steps, demo.block_length):
                span = start, min(start + demo.block_length, demo.steps)
                parts += [reader.actions(demo.name, *span), reader.states(demo.name, *span)]
                parts += reader.images(demo.name, *span).items()
            parts += reader.intrinsics(demo.name).items()
        return _hash([reader.spec.as_dict(), *parts])
    finally:
        reader.close()


def _checkpoint_hash(path: Path) -> str:
    from e0_lightning.policies.checkpoint import load_policy

    policy = load_policy(path)
    return _hash([policy.spec.as_dict(), dict(policy.hparams), *policy.state_dict().items()])


def _predictions_hash(path: Path) -> str:
    """Predictions are read with h5py; its errors count as clear ones."""
    from e0_lightning.data.formats.hdf5 import name_damage

    with name_damage(str(path)), h5py.File(path) as file:
        return _hash([(name, file[name][()]) for name in file])


def _hash(parts: list[Any]) -> str:
    """Hash of arrays, tensors, and other values by their text."""
    whole = hashlib.sha256()
    for part in parts:
        for each in part if isinstance(part, tuple) else (part,):
            values = each.numpy() if hasattr(each, "numpy") else each
            if isinstance(values, np.ndarray):
                whole.update(f"{values.dtype} {values.shape}".encode())
                whole.update(np.ascontiguousarray(values).tobytes())
            else:
                whole.update(json.dumps(values, default=str).encode())
    return whole.hexdigest()
