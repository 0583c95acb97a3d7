"""What a format of demonstration files must answer, and how the format of a file is found."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import fsspec
import h5py
import numpy as np
import numpy.typing as npt

from e0_lightning.types import PolicySpec

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


class DemoInfo(NamedTuple):
    """One demonstration, known by its headers alone."""

    name: str
    """Name of the demonstration inside its file."""
    steps: int
    """Number of actions T; an observation exists before each of them."""
    block: int
    """Steps that are stored together, so that reading one costs as much as reading all."""


class DemoReader(ABC):
    """A file of demonstrations of one task, read lazily; subclasses know one format each.

    Whatever a format stores, a subclass hands out images upright and RGB, the observation seen
    *before* each action, and actions in the units that the controller takes.

    The file is opened at the first read in each process, and is never carried across a fork or in
    a pickle, because HDF5 handles do not survive either.

    Args:
        path: Local path, or a URL that fsspec knows (``s3://…``).
        views: Cameras to read; all there are if None.
        state: Named state parts to read, in the order to lay them side by side; all if None.
    """

    format: ClassVar[str]

    def __init__(
        self, path: str, views: Sequence[str] | None = None, state: Sequence[str] | None = None
    ) -> None:
        self.path = path
        self.views = None if views is None else list(views)
        self.state = None if state is None else list(state)
        self._file: h5py.File | None = None
        self._pid = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.views, self.state)

    @classmethod
    @abstractmethod
    def can_read(cls, file: h5py.File) -> bool:
        """Whether the layout of ``file`` is this format's."""

    @property
    @abstractmethod
    def spec(self) -> PolicySpec:
        """What the demonstrations promise, with horizon 0; reads headers of the first one."""

    @property
    @abstractmethod
    def task(self) -> str:
        """Name of the task that is demonstrated."""

    @abstractmethod
    def demos(self) -> list[DemoInfo]:
        """Every usable demonstration in recorded order; reads headers, no image.

        Raises:
            ValueError: If one of them lacks a camera or a state part or breaks the spec.
        """

    @abstractmethod
    def failed(self) -> list[str]:
        """Demonstrations left out of :meth:`demos` because they are recorded as failures."""

    @abstractmethod
    def instruction(self, demo: str) -> str:
        """The sentence that the demonstrator carried out.

        Raises:
            ValueError: If neither the file nor the format knows one.
        """

    @abstractmethod
    def actions(self, demo: str, start: int, stop: int) -> Floats:
        """Actions of steps ``start`` to ``stop``, ``(n, D)``, robot units.

        Raises:
            ValueError: If one of them is not finite.
        """

    @abstractmethod
    def states(self, demo: str, start: int, stop: int) -> Floats:
        """State before each action of steps ``start`` to ``stop``, ``(n, Q)``, robot units."""

    @abstractmethod
    def images(self, demo: str, start: int, stop: int) -> dict[str, Pixels]:
        """View to images before each action, ``(n, S, S, 3)``, RGB, upright."""

    @abstractmethod
    def intrinsics(self, demo: str) -> dict[str, Floats]:
        """View to camera matrix ``(3, 3)`` in pixels, for the views where the file knows it."""

    @abstractmethod
    def stored(self, demo: str) -> dict[str, h5py.Dataset]:
        """View to the data set that its images are in, steps first."""

    @property
    def file(self) -> h5py.File:
        """The open file of this process."""
        if self._file is None or self._pid != os.getpid():
            if self._file is not None:
                # HDF5 would hand out what was inherited from before a fork once more.
                self._file.close()
            self._file, self._pid = open_hdf5(self.path), os.getpid()
        return self._file

    def close(self) -> None:
        """Let go of the open file; the next read opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def rows(self, dataset: h5py.Dataset, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Read steps ``start`` to ``stop`` of a data set.

        Raises:
            ValueError: If they are damaged, naming the data set.
        """
        try:
            read: np.ndarray[Any, Any] = dataset[start:stop]
        except OSError as error:
            raise ValueError(
                f"{self.path}: {dataset.name}, steps {start} to {stop}: found damaged data "
                f"({error}); whole data are wanted. Copy or collect the file again."
            ) from error
        return read

    def finite(self, values: Floats, what: str, demo: str, start: int) -> Floats:
        """Hand ``values (n, …)`` on if they are finite.

        Raises:
            ValueError: If they are not, naming the demonstration and the step.
        """
        good = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not good.all():
            step = int(np.argmin(good))
            raise ValueError(
                f"{self.path}: {demo}/{what} at step {start + step} is {values[step].tolist()}; "
                "finite numbers are wanted. Record that demonstration again or remove it."
            )
        return values


def open_hdf5(path: str) -> h5py.File:
    """Open a local or remote HDF5 file for reading.

    Raises:
        ValueError: If there is no such file, or it is empty, cut off or not HDF5.
    """
    try:
        if "://" not in path:
            if not os.path.exists(path):
                raise FileNotFoundError
            if os.path.getsize(path) == 0:
                raise ValueError(f"{path} is empty (0 bytes); an HDF5 file of demos is wanted.")
            return h5py.File(path, "r")
        return h5py.File(fsspec.open(path, "rb").open(), "r")
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: no such file. Check the path, or make demos with `e0 collect`."
        ) from error
    except OSError as error:
        if error.errno is not None:  # the system's or the network's; HDF5 gives its own no number
            raise ValueError(
                f"{path}: cannot be read ({error}). Check its permissions and the connection."
            ) from error
        cut = "truncated" in str(error)
        raise ValueError(
            f"{path}: found {'a cut-off HDF5 file' if cut else 'something that is not HDF5'} "
            f"({error}); a complete HDF5 file of demos is wanted. Copy or collect it again."
        ) from error


def camera_matrix(field: float, side: int) -> Floats:
    """Camera matrix ``(3, 3)`` in pixels of a square image with a field of view in degrees."""
    focal = side / 2 / np.tan(np.deg2rad(field) / 2)
    return np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]], dtype=np.float32)


def open_demos(
    path: str, views: Sequence[str] | None = None, state: Sequence[str] | None = None
) -> DemoReader:
    """Find the format of a file by looking into it.

    Args:
        path: Local path or fsspec URL.
        views: Cameras to read; all there are if None.
        state: Named state parts to read; all there are if None.

    Returns:
        The file as its format reads it, not yet opened.

    Raises:
        ValueError: If the file cannot be opened or speaks no format that is known.
    """
    from e0_lightning.data.formats.maniskill import ManiSkillReader
    from e0_lightning.data.formats.robomimic import RobomimicReader
    from e0_lightning.data.formats.vlabench import VLABenchReader

    dialects: tuple[type[DemoReader], ...] = (ManiSkillReader, RobomimicReader, VLABenchReader)
    with open_hdf5(path) as file:
        for format in dialects:
            if format.can_read(file):
                return format(path, views, state)
        found = ", ".join(list(file)[:5]) or "nothing"
    raise ValueError(
        f"{path}: no known layout of demos; found {found} at the top. "
        f"Wanted one of: {', '.join(format.format for format in dialects)}."
    )
