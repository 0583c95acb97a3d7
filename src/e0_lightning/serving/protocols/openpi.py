"""openpi's protocol: metadata first, then a chunk for each observation."""

from __future__ import annotations

import time
from typing import Any

from e0_lightning.serving.batching import Answer
from e0_lightning.serving.codec import decode, encode
from e0_lightning.serving.service import Connection, Service

NAME = "openpi"
_FAREWELL = "Internal server error. Traceback included in previous frame."


async def handle_connection(connection: Connection, service: Service) -> None:
    """Serve one client; its first error is its last frame, as clients of openpi expect.

    Args:
        connection: Open connection.
        service: Where answers come from.
    """
    await connection.send(encode({"e0": service.reader.describe()}, bytes))
    previous: float | None = None
    async for frame in service.frames(connection):
        start = time.perf_counter()
        try:
            message = await service.off_loop(decode, frame)
            answer = await service.answer(message, NAME)
        except Exception as error:
            await connection.send(service.explain(error, NAME))
            await connection.close(1011, _FAREWELL)
            return
        reply = _reply(answer, service.reader.steps, time.perf_counter() - start, previous)
        await connection.send(encode(reply, bytes))
        previous = time.perf_counter() - start


def _reply(answer: Answer, steps: int, seconds: float, previous: float | None) -> dict[str, Any]:
    timing: dict[str, Any] = {
        "infer_ms": 1000 * seconds,
        "queue_ms": 1000 * answer.waited,
        "batch_size": answer.batch,
    }
    if previous is not None:
        timing["prev_total_ms"] = 1000 * previous
    sure = {} if answer.uncertainty is None else {"uncertainty": answer.uncertainty[:steps]}
    return {
        "actions": answer.actions[:steps],
        **sure,
        "policy_timing": {"infer_ms": 1000 * answer.inferred},
        "server_timing": timing,
    }
