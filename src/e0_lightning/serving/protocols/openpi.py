"""openpi's protocol: metadata first, then an action chunk for each observation."""

from __future__ import annotations

import time
from typing import Any

from e0_lightning.serving.batching import Response
from e0_lightning.serving.codec import encode
from e0_lightning.serving.service import Connection, Service

NAME = "openpi"
_ERROR_REASON = "Internal server error. Traceback included in previous frame."


async def handle_connection(connection: Connection, service: Service) -> None:
    """Serve one client; an error closes the connection, as openpi's clients expect.

    Args:
        connection: Open connection.
        service: Samples actions.
    """
    await connection.send(encode({"e0": service.parser.describe()}, bytes))
    previous: float | None = None
    async for frame in service.frames(connection):
        start = time.perf_counter()
        try:
            message = await service.decode(frame)
            del frame
            response = await service.sample(message, NAME)
            del message
        except Exception as error:
            await connection.send(service.explain(error, NAME))
            await connection.close(1011, _ERROR_REASON)
            return
        seconds = time.perf_counter() - start
        reply = _reply(response, service.parser.n_action_steps, seconds, previous)
        await connection.send(encode(reply, bytes))
        connection.has_acted = True
        previous = time.perf_counter() - start


def _reply(
    response: Response, steps: int, seconds: float, previous: float | None
) -> dict[str, Any]:
    (actions, uncertainty), timing = response.sample, response.timing
    server_timing: dict[str, Any] = {
        "infer_ms": 1000 * seconds,
        "queue_ms": 1000 * timing.queued,
        "batch_size": timing.batch_size,
    }
    if previous is not None:
        server_timing["prev_total_ms"] = 1000 * previous
    reply = {
        "actions": actions[0, :steps].numpy(),
        "policy_timing": {"infer_ms": 1000 * timing.inference},
        "server_timing": server_timing,
    }
    if uncertainty is not None:
        reply["uncertainty"] = uncertainty[0, :steps].numpy()
    return reply
