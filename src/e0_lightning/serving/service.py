"""What protocols share: frames of a client until shutdown, and actions for its observations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

from e0_lightning.serving.batching import Batcher, BatchingConfig, BusyError, Response
from e0_lightning.serving.codec import decode
from e0_lightning.serving.limits import ServerLimits, log, shorten
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.serving.server_metrics import ServerMetrics
from e0_lightning.serving.threads import DaemonThreads
from e0_lightning.types import Actor

T = TypeVar("T")

GOODBYE_TIMEOUT = 0.05
"""Seconds in which a frame that was sent before shutdown may still arrive."""

_LARGE_FRAME = 4 * 2**20
_LARGE_PIXELS = 2**20
"""Bytes and pixels of a request from which on it is decoded beside the other large ones only."""


class Connection(Protocol):
    """The part of a WebSocket connection that protocols use."""

    has_acted: bool
    """Whether the last response was an action chunk; other clients send large frames slowly."""

    async def recv(self) -> bytes | str:
        """Wait for a frame."""
        ...

    async def send(self, message: bytes | str) -> None:
        """Send a frame, binary for bytes."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a code and a reason."""
        ...


class Service:
    """An actor with what lies between it and a protocol.

    Args:
        actor: The policy.
        parser: Converts the clients' observations.
        batching: Dynamic batching.
        limits: Limits on clients.
    """

    def __init__(
        self,
        actor: Actor,
        parser: ObservationParser,
        batching: BatchingConfig,
        limits: ServerLimits,
    ) -> None:
        self.parser = parser
        self.limits = limits
        self.metrics = ServerMetrics()
        self.batcher = Batcher(actor, batching, self.metrics)
        self.stopping = asyncio.Event()
        self.idle_since: dict[Connection, float] = {}
        """Clients to the time of their last request; infinity during one."""
        # Off the event loop, which has to go on; large requests never delay small ones.
        self._small = DaemonThreads(2, "decode")
        self._large = DaemonThreads(1, "decode-large")

    async def frames(self, connection: Connection) -> AsyncIterator[bytes | str]:
        """Frames of a client until it disconnects or the server stops.

        A frame that was sent before the server stopped is still returned.
        """
        stopping = asyncio.create_task(self.stopping.wait())
        frame = None
        try:
            while not self.stopping.is_set():
                frame = asyncio.create_task(connection.recv())
                await asyncio.wait({frame, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not frame.done():
                    await asyncio.wait({frame}, timeout=GOODBYE_TIMEOUT)
                if not frame.done():
                    break
                self.idle_since[connection] = float("inf")
                yield frame.result()
                self.idle_since[connection] = time.monotonic()
        finally:
            stopping.cancel()
            if frame is not None:
                frame.cancel()
        await connection.close(1001, "The server is shutting down.")

    async def decode(self, frame: bytes | str) -> Any:
        """Unpack a frame in a thread; see :func:`~e0_lightning.serving.codec.decode`."""
        return await self._run(decode, frame, is_large=len(frame) > _LARGE_FRAME)

    async def sample(self, message: Any, protocol: str) -> Response:
        """Parse one observation and sample actions for it.

        Args:
            message: The decoded observation.
            protocol: Label of the metrics.

        Raises:
            ValueError: If it does not fit the spec.
            BusyError: If the queue is full.
        """
        start = time.perf_counter()
        is_large = self.parser.count_pixels(message) > _LARGE_PIXELS
        observation = await self._run(self.parser.parse, message, is_large=is_large)
        response = await self.batcher.sample(observation)
        self.metrics.record_success(protocol, time.perf_counter() - start)
        return response

    def explain(self, error: Exception, protocol: str) -> str:
        """Count an error and return the text for the client."""
        if isinstance(error, ValueError):
            self.metrics.record_error(protocol, "refused")
            return shorten(str(error))
        if isinstance(error, BusyError):
            self.metrics.record_error(protocol, "busy")
            return shorten(str(error))
        self.metrics.record_error(protocol, "failed")
        log.error("A request failed: %s", shorten(repr(error)))
        return shorten(f"{type(error).__name__} in the policy: {error}")

    @property
    def is_busy(self) -> bool:
        """Whether a forward pass or a decoding is running."""
        return self.batcher.is_busy or self._small.is_busy or self._large.is_busy

    def close(self) -> None:
        """End the decoding threads."""
        self._small.close()
        self._large.close()

    async def _run(self, function: Callable[..., T], argument: Any, is_large: bool) -> T:
        return await (self._large if is_large else self._small).run(function, argument)
