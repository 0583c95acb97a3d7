"""How workers send batches: numbers by value, images in shared memory that is used again.

PyTorch shares each tensor of a batch as a file of its own, whose new pages take as long as decoding
a JPEG frame of that size. Here workers write images into buffers that both processes map already,
and use them again once the batch is gone.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from itertools import count
from math import prod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from e0_lightning.data.formats.stored_frames import Pixels

BUFFERS = 8
"""Buffers of a worker for each image array: two batches wait, one is written, others are held."""


class ImageBuffers:
    """Shared memory for the images of batches, for workers that are forked later.

    Memory is taken when a buffer is first written to. Where all are in use, because many batches
    are held, images are sent as PyTorch does.

    Args:
        num_workers: Workers that write.
        arrays: Image arrays in a batch.
        size: Bytes of the largest.
    """

    def __init__(self, num_workers: int, arrays: int, size: int) -> None:
        self.each = BUFFERS * arrays
        total = num_workers * self.each
        # Anonymous maps are shared with forked workers, and not limited by the size of /dev/shm.
        self._memory = [mmap.mmap(-1, size) for _ in range(total)]
        self._in_use = np.frombuffer(mmap.mmap(-1, max(1, total)), np.uint8)
        self.key = next(_keys)
        _by_key[self.key] = self

    def take(self, worker: int) -> int | None:
        """Number of a free buffer of a worker, now in use; None if there is none."""
        own = slice(worker * self.each, (worker + 1) * self.each)
        free = np.flatnonzero(self._in_use[own] == 0)
        if not len(free):
            return None
        index = own.start + int(free[0])
        self._in_use[index] = 1
        return index

    def array(self, index: int, shape: tuple[int, ...]) -> Pixels:
        """A buffer as an array."""
        return np.frombuffer(self._memory[index], np.uint8, prod(shape)).reshape(shape)

    def receive(self, index: int, shape: tuple[int, ...]) -> Pixels:
        """A buffer as an array, which is free again when nothing refers to that any more."""
        array = self.array(index, shape)
        weakref.finalize(array, self._in_use.__setitem__, index, 0).atexit = False
        return array


_keys = count()
_by_key: weakref.WeakValueDictionary[int, ImageBuffers] = weakref.WeakValueDictionary()
"""Buffers of this process: a batch that arrives has only their key."""


class LocalTensors:
    """Makes the tensors of batches that stay in this process."""

    def images(self, shape: tuple[int, ...]) -> tuple[Pixels, Tensor]:
        """Images ``(…, h, w, 3)`` to be filled in, and the tensor ``(…, 3, h, w)`` of them."""
        array = np.empty(shape, np.uint8)
        return array, torch.from_numpy(array).movedim(-1, -3)

    def numbers(self, array: NDArray[Any]) -> Tensor:
        """An array as a tensor."""
        return torch.from_numpy(array)


class SentTensors(LocalTensors):
    """Makes what the main process receives as the same tensors.

    Args:
        buffers: Shared memory for images.
        worker: Number of this worker.
    """

    def __init__(self, buffers: ImageBuffers, worker: int) -> None:
        self.buffers, self.worker = buffers, worker

    def images(self, shape: tuple[int, ...]) -> tuple[Pixels, Tensor]:
        """Images in a buffer, sent as its number; as PyTorch does if none is free."""
        index = self.buffers.take(self.worker)
        if index is None:
            return super().images(shape)
        sent = _Sent(_receive_images, self.buffers.key, index, shape)
        return self.buffers.array(index, shape), cast("Tensor", sent)

    def numbers(self, array: NDArray[Any]) -> Tensor:
        """An array, sent by value."""
        return cast("Tensor", _Sent(_receive_numbers, array))


def send_from_worker(buffers: ImageBuffers, worker: int) -> None:
    """Let the data set of this worker send its batches so; a ``worker_init_fn``."""
    info = get_worker_info()
    assert info is not None
    cast("Any", info.dataset).tensors = SentTensors(buffers, worker)


class _Sent:
    """Pickled as a call in the process that receives it."""

    def __init__(self, receive: Callable[..., Tensor], *arguments: Any) -> None:
        self._call = receive, arguments

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return self._call


def _receive_images(key: int, index: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(_by_key[key].receive(index, shape)).movedim(-1, -3)


def _receive_numbers(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array)
