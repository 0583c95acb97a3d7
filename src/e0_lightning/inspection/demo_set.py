"""Files of one kind with the numbers of their demonstrations in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from e0_lightning.data.formats.base import DemoReader, Floats
from e0_lightning.data.formats.headers import DemoInfo
from e0_lightning.data.sources import DemoSource, find_demos
from e0_lightning.types import PolicySpec


@dataclass(frozen=True)
class DemoNumbers:
    """A demonstration without its images.

    Args:
        reader: Reader of its file.
        info: Its headers.
        actions: ``(T, D)``, robot units.
        states: State before each action, ``(T, Q)``, robot units.
    """

    reader: DemoReader
    info: DemoInfo
    actions: Floats
    states: Floats

    @property
    def label(self) -> str:
        """Stem of the file and name, ``<stem>/<name>``."""
        return f"{PurePosixPath(self.reader.path).stem}/{self.info.name}"


@dataclass
class DemoSet:
    """Files of one format, task and spec.

    Args:
        readers: Readers of the files.
        demos: Their demonstrations.
        failed: Labels of demonstrations that are recorded as failures.
        problems: What cannot be read.
    """

    readers: list[DemoReader]
    demos: list[DemoNumbers] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def first(self) -> DemoReader:
        """Reader of the first file."""
        return self.readers[0]

    @property
    def spec(self) -> PolicySpec:
        """Spec of all files."""
        return self.first.spec

    @property
    def rate(self) -> float:
        """Steps per second, Hz; 0 if it is not known."""
        return self.first.rate

    @property
    def title(self) -> str:
        """The file, or the first and last of several."""
        if len(self.readers) == 1:
            return self.first.path
        return f"{self.first.path} … {self.readers[-1].path} ({len(self.readers)} files)"

    @cached_property
    def actions(self) -> Floats:
        """Actions of all demonstrations, ``(N, D)``."""
        empty = np.zeros((0, self.spec.action_dim), np.float32)
        return np.concatenate([empty, *(demo.actions for demo in self.demos)])

    @cached_property
    def states(self) -> Floats:
        """States of all demonstrations, ``(N, Q)``."""
        empty = np.zeros((0, self.spec.state_dim), np.float32)
        return np.concatenate([empty, *(demo.states for demo in self.demos)])

    @property
    def action_names(self) -> list[str]:
        """Names of the action dimensions."""
        return [f"actions[{dim}]" for dim in range(self.spec.action_dim)]

    @property
    def state_names(self) -> list[str]:
        """Names of the state dimensions, ``<part>[<dimension>]``."""
        return [f"{part}[{dim}]" for part, size in self.spec.state.items() for dim in range(size)]

    def columns(self, part: str) -> slice:
        """Where a state part is in the concatenated state."""
        sizes = self.spec.state
        start = sum(sizes[name] for name in list(sizes)[: list(sizes).index(part)])
        return slice(start, start + sizes[part])

    def is_like(self, reader: DemoReader) -> bool:
        """Whether another file has the same format, task and spec."""
        own, other = self.first, reader
        same = (own.format, own.task, own.spec) == (other.format, other.task, other.spec)
        return same and list(own.spec.state) == list(other.spec.state)

    def add(self, reader: DemoReader) -> None:
        """Read the numbers of a file, and check the storage of its images.

        Raises:
            ValueError: If its headers cannot be read.
        """
        for info in reader.demos():
            try:
                actions = reader.actions(info.name, 0, info.steps)
                states = reader.states(info.name, 0, info.steps)
                self.demos.append(DemoNumbers(reader, info, actions, states))
            except ValueError as error:
                self.problems.append(str(error))
            for dataset in set(reader.image_dataset(info.name).values()):
                try:
                    reader.check_chunks(dataset)
                except ValueError as error:
                    self.problems.append(str(error))
        stem = PurePosixPath(reader.path).stem
        self.failed += [f"{stem}/{name}" for name in reader.failed()]

    def verify_images(self) -> str:
        """Read every image; returns how many data sets of images have checksums."""
        datasets, protected = 0, 0
        for demo in self.demos:
            reader, info = demo.reader, demo.info
            for start in range(0, info.steps, info.block_length):
                try:
                    reader.images(info.name, start, min(start + info.block_length, info.steps))
                except ValueError as error:
                    self.problems.append(str(error))
            found = set(reader.image_dataset(info.name).values())
            datasets, protected = (
                datasets + len(found),
                protected + sum(d.fletcher32 for d in found),
            )
            reader.close()
        return f"every image is read; {protected} of {datasets} image sets have checksums"


@dataclass
class Inventory:
    """All files of an inspection.

    Args:
        sets: Files that can be read, those of one kind together.
        errors: Path to error of the others.
    """

    sets: list[DemoSet] = field(default_factory=list)
    errors: dict[str, ValueError] = field(default_factory=dict)


def read_sources(sources: list[DemoSource]) -> Inventory:
    """Read the numbers of all files of some entries.

    Raises:
        ValueError: If a pattern matches no file.
    """
    inventory = Inventory()
    files = [(source, path) for source in sources for path in find_demos(source)]
    for source, path in files:
        try:
            reader = source.open(path)
            if reader.is_failure:
                reader.close()
                continue
            known = next((each for each in inventory.sets if each.is_like(reader)), None)
            demo_set = DemoSet([]) if known is None else known
            demo_set.add(reader)
        except ValueError as error:
            inventory.errors[path] = error
            continue
        demo_set.readers.append(reader)
        if known is None:
            inventory.sets.append(demo_set)
        reader.close()
    return inventory
