"""WebSocket connections that bound what a client costs the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from e0_lightning.serving.limits import log

HANDSHAKES = 64
"""Sockets beyond the connected clients that may be in an opening or closing handshake."""

_SLICE = 2**8
_MAX_SLICE = 2**16
"""Bytes that are parsed at a time, doubled while no frame ends, so that a flood of tiny frames is
noticed after a few of them."""
_MAX_FRAMES = 2000
_MAX_PINGS = 100
"""Frames and, among them, pings of a client in a second."""
_MAX_UNSENT = 2**20
"""Bytes of pongs that a client does not read."""

_LARGE, _LARGE_OF_NEW = 4 * 2**20, 2**19
"""Bytes of a frame after which it is read at a limited rate, one chunk of all large frames at a
time. Clients without an action chunk so far are limited earlier than others."""
_LARGE_INTERVAL = 0.005
"""Seconds between such chunks, of 256 KiB in asyncio."""
_HANDSHAKE_INTERVAL = 0.02
"""Seconds between opening handshakes, which take the event loop a millisecond or two."""

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def connection_class(max_sockets: int) -> Any:
    """Build the connection class of one server.

    Args:
        max_sockets: Most open sockets; further ones are closed with HTTP status 503.

    Returns:
        A ``websockets.asyncio.server.ServerConnection``.
    """
    from websockets.asyncio.server import ServerConnection
    from websockets.frames import Frame, Opcode

    sockets: set[Any] = set()
    large_frames, handshakes = Turns(_LARGE_INTERVAL), Turns(_HANDSHAKE_INTERVAL)

    class LimitedConnection(ServerConnection):
        """Aborted when frames come too fast or pongs are not read; large frames are slowed down."""

        has_acted = False
        """Whether the last response was an action chunk."""
        is_refused = is_aborted = is_greeted = False
        received = frames = pings = second = unfinished = 0
        slice = _SLICE

        def connection_made(self, transport: Any) -> None:
            if len(sockets) >= max_sockets:
                self.is_refused = True
                log.warning("Refused a socket: %d are open, the most allowed", max_sockets)
                transport.write(_FULL)
                transport.close()
                return
            sockets.add(self)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if not self.is_refused:
                sockets.discard(self)
                super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self.is_greeted:
                self.is_greeted = True
                handshakes.wait(self.transport, partial(self.data_received, data))
                return
            start = 0
            while start < len(data) and not self.is_refused and not self.transport.is_closing():
                received, size = self.received, self.slice
                super().data_received(data[start : start + size])
                start += size
                is_unfinished = self.received == received
                self.slice = min(2 * size, _MAX_SLICE) if is_unfinished else _SLICE
                self.unfinished = self.unfinished + size if is_unfinished else 0
                if self.pings and self.transport.get_write_buffer_size() > _MAX_UNSENT:
                    self._abort("does not read pongs")
            limit = _LARGE if self.has_acted else _LARGE_OF_NEW
            if self.unfinished > limit and not self.transport.is_closing():
                large_frames.wait(self.transport)

        def eof_received(self) -> None:
            if not self.is_refused:
                super().eof_received()

        def process_event(self, event: Any) -> None:
            if self.is_aborted:
                return
            if (second := int(time.monotonic())) != self.second:
                self.second, self.frames, self.pings = second, 0, 0
            self.received += 1
            self.frames += 1
            self.pings += isinstance(event, Frame) and event.opcode is Opcode.PING
            if self.frames > _MAX_FRAMES or self.pings > _MAX_PINGS:
                self._abort("sends frames or pings too fast")
                return
            super().process_event(event)

        def _abort(self, reason: str) -> None:
            self.is_aborted = True
            log.warning("Disconnected a client that %s", reason)
            self.transport.abort()

    return LimitedConnection


class Turns:
    """Lets transports read at a limited rate, in turn.

    Args:
        interval: Seconds between two reads.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._waiting: deque[Any] = deque()
        self._is_scheduled = False
        self._last = float("-inf")

    def wait(self, transport: Any, then: Callable[[], None] = lambda: None) -> None:
        """Read no further until it is this transport's turn, and do something first then."""
        transport.pause_reading()
        self._waiting.append((transport, then))
        self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_at(self._last + self.interval, self._resume_next)

    def _resume_next(self) -> None:
        self._is_scheduled = False
        self._last = asyncio.get_running_loop().time()
        transport, then = self._waiting.popleft()
        if not transport.is_closing():
            transport.resume_reading()
            then()
        self._schedule()
