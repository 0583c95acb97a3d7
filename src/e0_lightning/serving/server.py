"""One port for all protocols: who may enter, where they go, when the doors open and close."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from e0_lightning.serving.batching import BatchingConfig
from e0_lightning.serving.key_map import load_key_map
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.serving.protocols.openpi import handle_connection as speak_openpi
from e0_lightning.serving.protocols.vla_eval import handle_connection as speak_vla_eval
from e0_lightning.serving.service import Service
from e0_lightning.types import Actor

log = logging.getLogger(__name__)

PROTOCOLS = {"/vla-eval": speak_vla_eval, "/v1/vla-eval": speak_vla_eval}
"""Request path to protocol; every other path is openpi's."""

_OPEN = {
    "/healthz": ("OK\n", "text/plain; charset=utf-8"),
    "/health": ('{"status": "ok"}\n', "application/json"),
}
"""What asks for no key: whether the server is there, as openpi and as vla-eval put it."""


def serve(
    actor: Actor,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    layout: str = "plain",
    prompt: str | None = None,
    limits: BatchingConfig | None = None,
    n_action_steps: int | None = None,
) -> None:
    """Let robots and benchmarks use a policy until the process is told to stop.

    openpi clients connect to ``ws://host:port``, vla-eval to ``ws://host:port/vla-eval``;
    ``/healthz``, ``/health`` and ``/metrics`` answer plain HTTP.

    Args:
        actor: The policy.
        host: Address to listen at; 0.0.0.0 is all of this machine's.
        port: Port; 0 takes a free one.
        api_key: Key that clients must send, ``Authorization: Api-Key …`` or, where only an
            address can be given, ``ws://any:KEY@host:port/…``.
        layout: Where clients keep what the policy wants: plain, maniskill, libero, vlabench, droid,
            aloha, or a YAML file.
        prompt: Instruction for requests without one.
        limits: Batch, wait, queue, frame size and grace.
        n_action_steps: Steps of a chunk that clients are given, as few as rollouts carry out; None for all
            that the layout takes. vla-eval's clients carry them all out before they ask again.
    """
    server = Server(actor, layout, api_key, prompt, limits or BatchingConfig(), n_action_steps)
    asyncio.run(server.run(host, port))


class Server:
    """An actor on a socket.

    Args:
        actor: Who answers.
        layout: Name or YAML file of the clients' layout.
        api_key: Key that clients must send, if any.
        prompt: Instruction for requests without one.
        limits: How much is taken at once.
        n_action_steps: Steps of a chunk that clients are given; None for all that the layout takes.

    Raises:
        ValueError: If the layout does not fit the actor's spec.
    """

    def __init__(
        self,
        actor: Actor,
        layout: str = "plain",
        api_key: str | None = None,
        prompt: str | None = None,
        limits: BatchingConfig | None = None,
        n_action_steps: int | None = None,
    ) -> None:
        if api_key is not None and not api_key.strip():
            raise ValueError(
                "api_key: found an empty one, which everyone has. Set it, or leave the option out."
            )
        reader = ObservationParser(load_key_map(layout), actor.spec, prompt, n_action_steps)
        self.api_key = api_key
        self.service = Service(actor, reader, limits or BatchingConfig())

    async def run(self, host: str, port: int, opened: Callable[[int], None] | None = None) -> None:
        """Serve until :meth:`stop`, SIGTERM or SIGINT; requests in flight are answered.

        Args:
            host: Address.
            port: Port; 0 takes a free one.
            opened: Told the port once clients may come.
        """
        from websockets.asyncio.server import serve as listen

        # The port opens on a warm policy, so that being able to connect means being answered.
        await asyncio.to_thread(self.service.batcher.warm_up)
        batches = asyncio.create_task(self.service.batcher.run())
        batches.add_done_callback(lambda _: self.stop())
        limits = self.service.limits
        try:
            # Clients ping us; our own pings would drop robots that are busy for long.
            listening = await listen(
                self._converse,
                host,
                port,
                process_request=self._enter,
                compression=None,
                max_size=limits.max_frame,
                ping_interval=None,
            )
            self._listen_to_signals()
            bound = next(iter(listening.sockets)).getsockname()[1]
            self._announce(host, bound)
            if opened is not None:
                opened(bound)
            await self.service.stopping.wait()
            listening.close(close_connections=False)
            with suppress(TimeoutError):
                await asyncio.wait_for(listening.wait_closed(), limits.grace)
            if batches.done():
                batches.result()  # it ends by a fault of ours only
        finally:
            batches.cancel()
            self.service.shut()

    def stop(self) -> None:
        """Take no new request, finish those in flight."""
        self.service.stopping.set()

    async def _converse(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        service = self.service
        # Robots vanish without a word; the kernel finds out.
        connection.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        )
        handle_connection = PROTOCOLS.get(_path(connection.request), speak_openpi)
        service.batcher.clients += 1
        service.meters.clients.inc()
        try:
            with suppress(ConnectionClosed):
                await handle_connection(connection, service)
        finally:
            service.batcher.clients -= 1
            service.meters.clients.dec()

    def _enter(self, connection: Any, request: Any) -> Any:
        """Answer plain HTTP, turn away the wrong key; None lets a client in."""
        path = _path(request)
        if path in _OPEN:
            return _respond(connection, HTTPStatus.OK, *_OPEN[path])
        if not self._is_welcome(request):
            text = "The API key is missing or wrong: send Authorization: Api-Key <key>.\n"
            return _respond(connection, HTTPStatus.UNAUTHORIZED, text)
        if path == "/metrics":
            kind = "text/plain; version=0.0.4; charset=utf-8"
            return _respond(connection, HTTPStatus.OK, self.service.meters.text(), kind)
        if path == "/config":
            limits = self.service.limits
            config = {"max_batch_size": limits.max_batch, "max_wait_time": limits.max_wait}
            if "?" in request.path:
                text = json.dumps({"errors": ["set --limits when starting the server"]})
                return _respond(connection, HTTPStatus.UNPROCESSABLE_ENTITY, text)
            text = json.dumps({"applied": {}, "config": config})
            return _respond(connection, HTTPStatus.OK, text, "application/json")
        return None

    def _is_welcome(self, request: Any) -> bool:
        if self.api_key is None:
            return True
        scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            # What clients make of ws://any:KEY@host when an address is all they can be given.
            with suppress(binascii.Error):
                sent = base64.b64decode(sent).decode(errors="replace").partition(":")[2]
        return hmac.compare_digest(sent.encode(), self.api_key.encode())

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may; a server in another is stopped by its owner.
            with suppress(RuntimeError, ValueError, NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)

    def _announce(self, host: str, port: int) -> None:
        log.info("Serving on %s:%d", host, port)
        if self.api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
            log.warning("Anyone who reaches %s:%d may use the policy: no --api-key.", host, port)


def _path(request: Any) -> str:
    path: str = request.path.partition("?")[0]
    return path.rstrip("/") or "/"


def _respond(connection: Any, status: HTTPStatus, text: str, kind: str | None = None) -> Any:
    response = connection.respond(status, text)
    if kind is not None:
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = kind
    return response
