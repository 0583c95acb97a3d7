"""Worker processes: connected by a pipe, ended together with the process that starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

# One thread per process: OpenMP for torch and NumPy, LP for Mesa's software renderer. The libraries
# read them when they are loaded, so they must be set before the fork server starts.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}


class WorkerProcess:
    """A process that runs ``target(connection, *args)``, and the parent's end of its pipe.

    The process is not forked from the parent, because neither a renderer nor CUDA survives a fork,
    but from a fork server that has imported this module alone. When the parent dies in any way,
    the pipe closes and ``connection.recv`` in the worker raises `EOFError`.

    Args:
        target: Importable function; its first argument is the worker's end of the pipe.
        args: Further arguments, which must be picklable.
    """

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.connection: Connection
        self.connection, worker_end = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_run, args=(target, worker_end, *args), daemon=True
        )
        with _environment(ONE_THREAD):
            self.process.start()
        # The parent's copy would keep the pipe open after the worker died.
        worker_end.close()

    def end(self) -> None:
        """Kill the process."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def _run(target: Callable[..., None], connection: Connection, *args: Any) -> None:
    # Ctrl-C reaches the whole process group; the parent decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent may have died while the worker was busy.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        target(connection, *args)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
