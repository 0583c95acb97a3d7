"""WebSocket server: authentication, protocol routing, start-up and graceful shutdown."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from signal import SIGINT, SIGTERM
from typing import Any

from e0_lightning.key_map import load_key_map
from e0_lightning.serving.batching import BatchingConfig
from e0_lightning.serving.connection import HANDSHAKES, connection_class
from e0_lightning.serving.limits import LogRateLimit, ServerLimits, log
from e0_lightning.serving.memory import return_large_blocks
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.serving.protocols.openpi import handle_connection as handle_openpi
from e0_lightning.serving.protocols.vla_eval import handle_connection as handle_vla_eval
from e0_lightning.serving.service import Connection, Service
from e0_lightning.types import Actor

PROTOCOLS = {
    "/vla-eval": handle_vla_eval,
    "/v1/vla-eval": handle_vla_eval,
}
"""Request path to protocol; every other path is openpi's."""

_HEALTH = {
    "/healthz": ("OK\n", "text/plain; charset=utf-8"),
    "/health": ('{"status": "ok"}\n', "application/json"),
}
"""Health checks of openpi and vla-eval, which need no key."""


def serve(server: Server, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Run a server until SIGTERM or SIGINT.

    openpi clients connect to ``ws://host:port``, vla-eval to ``ws://host:port/vla-eval``;
    ``/healthz``, ``/health`` and ``/metrics`` respond to plain HTTP.

    Args:
        server: The server.
        host: Address to listen on; 0.0.0.0 is every address of this machine.
        port: Port; 0 takes a free one.
    """
    return_large_blocks()
    asyncio.run(server.run(host, port))


class Server:
    """A policy server.

    Args:
        actor: The policy.
        key_map: Keys of the clients' observations: plain, maniskill, libero, vlabench, droid,
            aloha, or a YAML file.
        instruction: Instruction for requests without one.
        n_action_steps: Steps of a chunk that clients get; None for as many as the key map allows.
            Clients of vla-eval execute all of them before the next inference.
        api_key: Key that clients must send, ``Authorization: Api-Key …`` or, where only an
            address can be given, ``ws://any:KEY@host:port/…``.
        batching: Dynamic batching.
        limits: Limits on clients.

    Raises:
        ValueError: If the key map does not fit the actor's spec.
    """

    def __init__(
        self,
        actor: Actor,
        key_map: str = "plain",
        instruction: str | None = None,
        n_action_steps: int | None = None,
        api_key: str | None = None,
        batching: BatchingConfig | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        if api_key is not None and not api_key.strip():
            raise ValueError(
                "api_key: expected a key, got an empty one. Set it, or leave the option out."
            )
        limits = limits or ServerLimits()
        parser = ObservationParser(
            load_key_map(key_map), actor.spec, instruction, n_action_steps, limits.max_pixels
        )
        self.api_key = api_key
        self.service = Service(actor, parser, batching or BatchingConfig(), limits)
        self.max_connections = _fit_file_limit(limits.max_connections)

    async def run(self, host: str, port: int, on_open: Callable[[int], None] | None = None) -> None:
        """Serve until :meth:`stop`, SIGTERM or SIGINT, then finish requests in flight.

        Args:
            host: Address.
            port: Port; 0 takes a free one.
            on_open: Called with the port once clients can connect.
        """
        from websockets.asyncio.server import serve as listen

        # The port opens after the warm-up, so that /healthz means that the policy acts.
        await asyncio.to_thread(self.service.batcher.warm_up)
        batches = asyncio.create_task(self.service.batcher.run())
        batches.add_done_callback(lambda _: self.stop())
        limits = self.service.limits
        try:
            with _limited_logs():
                # Clients ping the server; pings of its own would disconnect busy robots.
                listener = await listen(
                    self._handle,
                    host,
                    port,
                    process_request=self._admit,
                    create_connection=connection_class(self.max_connections + HANDSHAKES),
                    compression=None,
                    max_size=limits.largest_message(self.service.batcher.spec),
                    max_queue=2,
                    ping_interval=None,
                    open_timeout=5,
                )
                self._install_signal_handlers()
                bound = next(iter(listener.sockets)).getsockname()[1]
                self._announce(host, bound)
                if on_open is not None:
                    on_open(bound)
                await self.service.stopping.wait()
                listener.close(close_connections=False)
                with suppress(TimeoutError):
                    await asyncio.wait_for(listener.wait_closed(), limits.grace)
                if batches.done():
                    batches.result()  # raises, since it only ends by an error
        finally:
            batches.cancel()
            self.service.close()

    def stop(self) -> None:
        """Accept no new requests and finish those in flight."""
        self.service.stopping.set()

    async def _handle(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        service = self.service
        # TCP detects clients that vanish without closing.
        connection.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        )
        handle_connection = PROTOCOLS.get(_path(connection.request), handle_openpi)
        service.batcher.clients += 1
        service.metrics.clients.inc()
        try:
            with suppress(ConnectionClosed):
                await handle_connection(connection, service)
        finally:
            service.batcher.clients -= 1
            service.metrics.clients.dec()
            service.idle_since.pop(connection, None)

    def _admit(self, connection: Any, request: Any) -> Any:
        """Respond to plain HTTP or refuse a client; None admits it."""
        path = _path(request)
        if path in _HEALTH:
            return _respond(connection, HTTPStatus.OK, *_HEALTH[path])
        if not self._has_key(request):
            text = "The API key is missing or wrong: send Authorization: Api-Key <key>.\n"
            return _respond(connection, HTTPStatus.UNAUTHORIZED, text)
        if path == "/metrics":
            kind = "text/plain; version=0.0.4; charset=utf-8"
            return _respond(connection, HTTPStatus.OK, self.service.metrics.text(), kind)
        if path == "/config":
            batching = self.service.batcher.config
            config = {"max_batch_size": batching.max_batch, "max_wait_time": batching.max_wait}
            if "?" in request.path:
                text = json.dumps({"errors": ["set --batching when starting the server"]})
                return _respond(connection, HTTPStatus.UNPROCESSABLE_ENTITY, text)
            text = json.dumps({"applied": {}, "config": config})
            return _respond(connection, HTTPStatus.OK, text, "application/json")
        if len(self.service.idle_since) >= self.max_connections and not self._drop_idle():
            log.warning("Refused a client: %d are connected", self.max_connections)
            text = f"expected at most {self.max_connections} clients. Try again later.\n"
            return _respond(connection, HTTPStatus.SERVICE_UNAVAILABLE, text)
        self.service.idle_since[connection] = time.monotonic()
        # Clients that vanish in the handshake never reach the handler.
        connection.connection_lost_waiter.add_done_callback(
            lambda _: self.service.idle_since.pop(connection, None)
        )
        return None

    def _drop_idle(self) -> bool:
        """Disconnect the client that has been idle longest, if for longer than the timeout."""
        idle_since = self.service.idle_since
        connection = min(idle_since, key=lambda each: idle_since[each])
        if time.monotonic() - idle_since[connection] <= self.service.limits.idle_timeout:
            return False
        del idle_since[connection]
        closing = asyncio.ensure_future(_close_idle(connection))
        closing.add_done_callback(lambda _: None)
        return True

    def _has_key(self, request: Any) -> bool:
        if self.api_key is None:
            return True
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            # The form that clients derive from ws://any:KEY@host.
            with suppress(binascii.Error):
                sent = base64.b64decode(sent).decode(errors="replace").partition(":")[2]
        return hmac.compare_digest(sent.encode(), self.api_key.encode())

    def _install_signal_handlers(self) -> None:
        for number in (SIGTERM, SIGINT):
            # Only possible in the main thread; elsewhere the owner calls `stop`.
            with suppress(RuntimeError, ValueError, NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)

    def _announce(self, host: str, port: int) -> None:
        log.info("Serving on %s:%d", host, port)
        if self.api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
            log.warning("Anyone who reaches %s:%d can use the policy: no --api-key.", host, port)


async def _close_idle(connection: Connection) -> None:
    await connection.close(1013, "Idle, and another client needs the place. Connect again.")


def _fit_file_limit(max_connections: int) -> int:
    """Lower a number of connections so that sockets use half of the open files at most."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or max_connections + HANDSHAKES <= soft // 2:
        return max_connections
    fitting = max(1, soft // 2 - HANDSHAKES)
    log.warning("Serving at most %d clients: the limit on open files is %d", fitting, soft)
    return fitting


@contextmanager
def _limited_logs() -> Iterator[None]:
    """Limit the rate of log messages that clients can cause."""
    limit = LogRateLimit()
    loggers = [log, logging.getLogger("websockets.server"), logging.getLogger("asyncio")]
    for logger in loggers:
        logger.addFilter(limit)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(limit)


def _path(request: Any) -> str:
    path: str = request.path.partition("?")[0]
    return path.rstrip("/") or "/"


def _respond(connection: Any, status: HTTPStatus, text: str, kind: str | None = None) -> Any:
    response = connection.respond(status, text)
    if kind is not None:
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = kind
    return response
