"""The interface of a reader of demonstration files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from e0_lightning.data.formats.frames import Color, Frames, resize, to_rgb
from e0_lightning.data.formats.hdf5 import name_damage
from e0_lightning.data.formats.headers import DemoInfo, Headers
from e0_lightning.data.formats.read_files import record_files
from e0_lightning.data.formats.storage import Storage
from e0_lightning.data.formats.stored_frames import Pixels, StoredFrames
from e0_lightning.geometry import place, resize_intrinsics
from e0_lightning.types import PolicySpec, ViewSize

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

Views = Sequence[str] | Mapping[str, ViewSize | None]
"""Names of cameras, or name to the size of its images; None for the recorded size."""


class DemoReader(ABC):
    """Reads demonstrations of one file lazily; each format is a subclass.

    A format implements four methods: `lengths`, `read_actions`, `read_states` and `read_images`;
    everything else has a default. It returns frames as recorded but upright and RGB, the
    observation *before* each action, and actions in the units of the controller. Here values are
    checked, so that numbers are finite and frames RGB, and frames are resized as `views` says.

    The file is opened at the first read in each process, and never carried across a fork or in a
    pickle, because HDF5 handles survive neither. What headers answer is read once, and kept beside
    many files from one start to the next; a reader of your own that reads other files for it calls
    :func:`~e0_lightning.data.formats.read_files.note_file` with their paths, so that it is read
    again when they change.

    Args:
        path: Local path, or a URL that fsspec reads (``s3://…``).
        views: Cameras to read, with or without the sizes of their images; all, in their recorded
            sizes, if None.
        state: Names of the state parts to read, in the order of concatenation; all if None.
    """

    format: str = "custom"
    """Name of the format."""

    control_mode: str = ""
    """Robot controller that the actions are meant for, empty if it is not known."""

    def __init__(
        self, path: str, views: Views | None = None, state: Sequence[str] | None = None
    ) -> None:
        self.path = path
        self.views = None if views is None else list(views)
        self.sizes: dict[str, ViewSize] = {}
        if isinstance(views, Mapping):
            self.sizes = {view: size for view, size in views.items() if size is not None}
        self.state = None if state is None else list(state)
        self.headers = Headers()
        self.files: dict[str, str] = {}
        """Local files that were read, with their versions."""
        self._storage = Storage(path, self.files)

    def __reduce__(self) -> tuple[Any, ...]:
        sizes = self.views and {view: self.sizes.get(view) for view in self.views}
        return type(self), (self.path, sizes, self.state), (self.headers, self.files)

    def __setstate__(self, state: tuple[Headers, dict[str, str]]) -> None:
        self.headers, files = state
        self.files.update(files)

    @abstractmethod
    def lengths(self) -> dict[str, int]:
        """Usable demonstrations in recorded order, with their numbers of actions; reads no image.

        Raises:
            ValueError: If the parts of a demonstration differ in length.
        """

    @abstractmethod
    def read_actions(self, demo: str, start: int, stop: int) -> Array:
        """Read the actions of steps ``start`` to ``stop``, ``(n, D)``, robot units."""

    @abstractmethod
    def read_states(self, demo: str, start: int, stop: int) -> dict[str, Array]:
        """Read state parts by name, before each action, ``(n, …)`` each, robot units.

        Parts that are not in ``self.state`` may be left out.
        """

    @abstractmethod
    def read_images(self, demo: str, start: int, stop: int) -> Mapping[str, Frames]:
        """Read views by name, before each action, as recorded: uint8 RGB, upright.

        Each is ``(n, h, w, 3)``, or a list of n frames ``(h, w, 3)`` where their sizes differ.
        Views that are not in ``self.views`` may be left out.
        """

    @classmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether ``file`` has this format; used to detect it."""
        return False

    @property
    def rate(self) -> float:
        """Steps per second, Hz; 0 if it is not known."""
        return 0

    @property
    def is_failure(self) -> bool:
        """Whether the file holds one demonstration that failed, so that it is left out."""
        return False

    @property
    def task(self) -> str:
        """Name of the task that is demonstrated."""
        return PurePosixPath(self.path).stem

    def read_instruction(self, demo: str) -> str | None:
        """Read the instruction of a demonstration; None if the file has none."""
        return None

    def failed(self) -> list[str]:
        """Demonstrations that are recorded as failures, which `lengths` leaves out."""
        return []

    def splits(self) -> dict[str, list[str]]:
        """Names of the demonstrations for ``train`` and for ``valid``, where the file has them."""
        return {}

    def read_intrinsics(self, demo: str) -> dict[str, Floats]:
        """Read the camera matrix ``(3, 3)`` of the recorded frames of each view that has one."""
        return {}

    def image_dataset(self, demo: str) -> dict[str, h5py.Dataset]:
        """View to the HDF5 data set of its images, steps first."""
        return {}

    def block_length(self, demo: str) -> int:
        """Steps whose images are stored together; 1 for images that are encoded one by one."""
        raw = [images for images in self.image_dataset(demo).values() if images.ndim > 2]
        return max((images.chunks[0] for images in raw if images.chunks), default=1)

    def read_spec(self, demo: str) -> PolicySpec:
        """Spec of one demonstration, with the sizes of its recorded frames and horizon 0."""
        images, states = self.read_images(demo, 0, 1), self.read_states(demo, 0, 1)
        views = self._select(images, self.views, "view", demo)
        parts = self._select(states, self.state, "state part", demo)
        return PolicySpec(
            views={view: ViewSize(*frames[0].shape[:2]) for view, frames in views.items()},
            state={part: np.asarray(values).size for part, values in parts.items()},
            action_dim=np.asarray(self.read_actions(demo, 0, 1)).shape[-1],
            control_mode=self.control_mode,
        )

    @property
    def spec(self) -> PolicySpec:
        """Observation and action spec of the first demonstration, with horizon 0."""
        if self.headers.spec is None:
            with self.reading():
                first = next(iter(self._lengths), None)
                if first is None:
                    raise ValueError(f"{self.path}: expected at least one demonstration, got none.")
                self.headers.spec = self._sized_spec(first)
        return self.headers.spec

    def demos(self) -> list[DemoInfo]:
        """Every usable demonstration in recorded order.

        Raises:
            ValueError: If one lacks a view or a state part, or differs from the first in its spec.
        """
        if self.headers.demos is None:
            first = self.spec
            infos: list[DemoInfo] = []
            with self.reading():
                for name, steps in self._lengths.items():
                    if infos:
                        found = self._sized_spec(name)
                        first.check_compatible(found, self.path, f"its {name}")
                    block = self.block_length(name) if first.views else steps
                    infos.append(DemoInfo(name, steps, block))
            self.headers.demos = infos
        return self.headers.demos

    def lists(self) -> dict[str, list[str]]:
        """Names of demonstrations in the lists `splits` of the file, and ``failed`` ones."""
        if self.headers.lists is None:
            with self.reading():
                self.headers.lists = {**self.splits(), "failed": self.failed()}
        return self.headers.lists

    def instruction(self, demo: str) -> str:
        """Instruction of a demonstration.

        Raises:
            ValueError: If the file has none.
        """
        if demo not in self.headers.instructions:
            with self.reading():
                found = self.read_instruction(demo)
            if not found:
                raise ValueError(
                    f"{self.path}: {demo} has no instruction. Give one with the demonstrations: "
                    "{path: …, instruction: …}."
                )
            self.headers.instructions[demo] = found
        return self.headers.instructions[demo]

    def actions(self, demo: str, start: int, stop: int) -> Floats:
        """Actions of steps ``start`` to ``stop``, ``(n, D)`` float32, robot units.

        Raises:
            ValueError: If one of them is not finite.
        """
        with self.reading():
            read = self.read_actions(demo, start, stop)
        values = self._rows(read, "actions", demo, start, stop)
        return self._finite(values, "actions", demo, start)

    def states(self, demo: str, start: int, stop: int) -> Floats:
        """State before each action of steps ``start`` to ``stop``, ``(n, Q)`` float32.

        Raises:
            ValueError: If a state part is missing or not finite.
        """
        with self.reading():
            states = self.read_states(demo, start, stop)
        parts = self._select(states, self.state, "state part", demo)
        columns = [np.zeros((stop - start, 0), np.float32)]
        for part, read in parts.items():
            values = self._rows(read, part, demo, start, stop)
            columns.append(self._finite(values.reshape(len(values), -1), part, demo, start))
        return np.concatenate(columns, axis=1)

    def images(self, demo: str, start: int, stop: int) -> dict[str, Pixels]:
        """View to images before each action, ``(n, h, w, 3)`` uint8, RGB, upright.

        Raises:
            ValueError: If a view is missing, its frames are not RGB of uint8, or they change in
                size where no size of the images is given.
        """
        images = self.stored_images(demo, start, stop)
        return {view: np.asarray(frames) for view, frames in images.items()}

    def stored_images(self, demo: str, start: int, stop: int) -> dict[str, Pixels | StoredFrames]:
        """Images as `images` returns them, or where they are in the file if they are stored so."""
        with self.reading():
            read = self.read_images(demo, start, stop)
        views = self._select(read, self.views, "view", demo)
        resized: dict[str, Pixels | StoredFrames] = {}
        for view, frames in views.items():
            where = f"{self.path}: {demo}, steps {start} to {stop}, view {view!r}"
            if len(frames) != stop - start:
                raise ValueError(f"{where}: expected {stop - start} frames, got {len(frames)}.")
            resized[view] = resize(frames, self.spec.views[view], view in self.sizes, where)
        return resized

    def intrinsics(self, demo: str) -> dict[str, Floats]:
        """View to the camera matrix of its images, ``(3, 3)`` in pixels, where it is known."""
        known = self.headers.intrinsics  # reading headers takes as long as reading a frame
        if demo not in known:
            with self.reading():
                found = self._scaled_intrinsics(demo)
            known[demo] = {view: np.asarray(matrix, np.float32) for view, matrix in found.items()}
        return known[demo]

    def _scaled_intrinsics(self, demo: str) -> dict[str, Floats]:
        known = self.read_intrinsics(demo)
        if not any(view in self.sizes for view in known):
            return known
        recorded = self.read_spec(demo).views
        return {
            view: resize_intrinsics(matrix, recorded[view].camera_size, self.sizes[view])
            if view in self.sizes
            else matrix
            for view, matrix in known.items()
        }

    @property
    def file(self) -> h5py.File:
        """The open file of this process."""
        return self._storage.file

    def adopt(self, file: h5py.File) -> None:
        """Read from an open file of this path, and close it with the reader."""
        self._storage.adopt(file)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Name the file in errors of HDF5, and record in ``files`` what is read meanwhile."""
        with name_damage(self.path), record_files(self.files):
            yield

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._storage.close()

    def find(self, key: str) -> h5py.Dataset | h5py.Group | None:
        """Find a member of the file and check that the values of a data set are in it.

        Raises:
            ValueError: If it cannot be read, or its values are missing.
        """
        return self._storage.find(key)

    def check_chunks(self, dataset: h5py.Dataset) -> h5py.Dataset:
        """Check the chunk index of a data set before its first read in this process.

        Raises:
            ValueError: If it is damaged.
        """
        return self._storage.check_chunks(dataset)

    def rows(self, dataset: h5py.Dataset, start: int, stop: int) -> Array:
        """Read steps ``start`` to ``stop`` of a data set.

        Raises:
            ValueError: If they are damaged, naming the data set.
        """
        return self._storage.rows(dataset, start, stop)

    def frames(self, dataset: h5py.Dataset, start: int, stop: int, color: Color = "rgb") -> Frames:
        """Read steps ``start`` to ``stop`` of a data set of frames in any encoding, as RGB.

        Args:
            dataset: The frames.
            start: First step.
            stop: Step after the last.
            color: Order of the channels in the file; of encoded frames, after decoding.

        Returns:
            ``(n, h, w, 3)``, not read yet where that is possible; a list of n arrays ``(h, w, 3)``
            if frames differ in size.

        Raises:
            ValueError: If they are damaged or no frames.
        """
        stored = self._storage.frames(dataset, start, stop, color)
        if stored is not None:
            return stored
        return to_rgb(dataset, self.rows(dataset, start, stop), start, color)

    @cached_property
    def _lengths(self) -> dict[str, int]:
        return self.lengths()

    def _sized_spec(self, demo: str) -> PolicySpec:
        """Spec of a demonstration, with the sizes that its images are given."""
        recorded = self.read_spec(demo)
        views = {}
        for view, size in recorded.views.items():
            views[view] = replace(self.sizes.get(view, size), camera=size.camera_size)
            try:
                place(views[view], *size.camera_size)
            except ValueError as error:
                raise ValueError(f"data.views, {view!r} of {self.path}: {error}") from error
        return replace(recorded, views=views)

    def _select(
        self, read: Mapping[str, Any], names: Iterable[str] | None, kind: str, demo: str
    ) -> Mapping[str, Any]:
        if names is None:
            return read
        if missing := [name for name in names if name not in read]:
            raise ValueError(
                f"{self.path}: {demo}: expected a {kind} {missing[0]!r}, got "
                f"{', '.join(read) or 'none'}."
            )
        return {name: read[name] for name in names}

    def _rows(self, read: Array, what: str, demo: str, start: int, stop: int) -> Floats:
        if len(read) != stop - start:
            raise ValueError(
                f"{self.path}: {demo}/{what}: expected steps {start} to {stop}, got {len(read)} "
                "rows."
            )
        with np.errstate(over="ignore"):  # infinity is refused with its step
            return np.asarray(read).astype(np.float32)

    def _finite(self, values: Floats, what: str, demo: str, start: int) -> Floats:
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            step = int(np.argmin(finite))
            raise ValueError(
                f"{self.path}: {demo}/{what} at step {start + step}: expected finite numbers, got "
                f"{values[step].tolist()}. Record that demonstration again or remove it."
            )
        return values
