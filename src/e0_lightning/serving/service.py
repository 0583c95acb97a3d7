"""What every protocol needs: frames until the server stops, and answers to observations."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from e0_lightning.serving.batching import Answer, Batcher, BatchingConfig, BusyError
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.serving.server_metrics import ServerMetrics
from e0_lightning.types import Actor

log = logging.getLogger(__name__)

T = TypeVar("T")

_ON_ITS_WAY = 0.05
"""Seconds that a frame may be under way when the server is told to stop."""


class Connection(Protocol):
    """What we use of a WebSocket connection."""

    async def recv(self) -> bytes | str:
        """Wait for a frame."""
        ...

    async def send(self, message: bytes | str) -> None:
        """Send a frame, binary for bytes."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye."""
        ...


class Service:
    """An actor with everything between it and a protocol.

    Args:
        actor: Who answers.
        reader: How observations are found in messages.
        limits: How much is taken at once.
    """

    def __init__(self, actor: Actor, reader: ObservationParser, limits: BatchingConfig) -> None:
        self.reader = reader
        self.limits = limits
        self.meters = ServerMetrics()
        self.batcher = Batcher(actor, limits, self.meters)
        self.stopping = asyncio.Event()
        # Decoding and resizing take milliseconds, too long for a loop that answers pings.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="read")

    async def frames(self, connection: Connection) -> AsyncIterator[bytes | str]:
        """Frames of a client until it goes or the server stops; what it has sent is served."""
        stopping = asyncio.create_task(self.stopping.wait())
        frame = None
        try:
            while not self.stopping.is_set():
                frame = asyncio.create_task(connection.recv())
                await asyncio.wait({frame, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not frame.done():  # it may have been sent before its client could know
                    await asyncio.wait({frame}, timeout=_ON_ITS_WAY)
                if not frame.done():
                    break
                yield frame.result()
        finally:
            stopping.cancel()
            if frame is not None:
                frame.cancel()
        await connection.close(1001, "The server is shutting down.")

    async def off_loop(self, function: Callable[..., T], *args: Any) -> T:
        """Run a slow function beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *args)

    async def answer(self, message: Any, protocol: str) -> Answer:
        """Read one observation and have it answered, counting how it went.

        Args:
            message: The decoded observation.
            protocol: Under which name to count.

        Raises:
            ValueError: If it does not fit the spec.
            BusyError: If too many are waiting.
        """
        start = time.perf_counter()
        observation = await self.off_loop(self.reader.read, message)
        answer = await self.batcher.act(observation)
        self.meters.answered(protocol, time.perf_counter() - start)
        return answer

    def explain(self, error: Exception, protocol: str) -> str:
        """Count an error and say what a client may know of it."""
        if isinstance(error, ValueError):
            self.meters.failed(protocol, "refused")
            return str(error)
        if isinstance(error, BusyError):
            self.meters.failed(protocol, "busy")
            return str(error)
        self.meters.failed(protocol, "failed")
        log.error("A request failed", exc_info=error)
        return f"{type(error).__name__} in the policy: {error}"

    def shut(self) -> None:
        """Give the reading threads back."""
        self._readers.shutdown(wait=False)
