"""Daemon threads: neither the event loop nor the end of the process waits for slow work."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class DaemonThreads:
    """A few threads that run functions for an event loop.

    Unlike those of a ``ThreadPoolExecutor``, they do not delay the end of the process.

    Args:
        count: Number of threads.
        name: Name of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=name, daemon=True) for _ in range(count)
        ]
        self._is_started = False
        self._lock = threading.Lock()
        self._unfinished = 0

    @property
    def is_busy(self) -> bool:
        """Whether a function is running or waiting."""
        return self._unfinished > 0

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in the first free thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._is_started:
            self._is_started = True
            for thread in self._threads:
                thread.start()
        with self._lock:
            self._unfinished += 1
        self._jobs.put((loop, future, function, args))
        try:
            return await future
        finally:
            del future, args  # an exception's traceback would keep both alive

    def close(self) -> None:
        """End each thread after its current function."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, future, function, args = job
            result, error = None, None
            if not future.cancelled():
                try:
                    result = function(*args)
                except Exception as raised:
                    error = raised
            with self._lock:
                self._unfinished -= 1
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_finish, future, result, error)
            del job, future, function, args, result, error


def _finish(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
