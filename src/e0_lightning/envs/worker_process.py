"""WorkerProcess processes that answer over a pipe and end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

# One thread a process: OpenMP for torch and NumPy, LP for Mesa's software renderer. They are read
# when the libraries load, so they must stand in the environment before the server starts.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}


class WorkerProcess:
    """A fresh process running ``target(connection, *args)``, and our end of its pipe.

    The process is not forked from this one, for neither a renderer nor CUDA survives that, but
    from a server that has loaded this package and nothing else: loading it (and Lightning with
    it) takes longer than loading a simulator. When this process dies, however it dies, the pipe
    closes and ``connection.recv`` there raises `EOFError`.

    Args:
        target: Importable function; it is given the far end of the pipe first.
        args: What else it is given; must pickle.
    """

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_quietly, args=(target, theirs, *args), daemon=True
        )
        with _environment(ONE_THREAD):
            self.process.start()
        # Our copy of the far end would keep the pipe open after the process died.
        theirs.close()

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def _quietly(target: Callable[..., None], connection: Connection, *args: Any) -> None:
    # Ctrl-C reaches the whole process group; what to do about it is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The process that wanted the answer may be gone.
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
