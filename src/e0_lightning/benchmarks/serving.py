"""How fast a server answers many clients, with batching and without."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from e0_lightning.serving.batching import BatchingConfig
from e0_lightning.serving.server import Server
from e0_lightning.types import Actor, Observation, PolicySpec


class Echo:
    """Tells back the first number of each state, after as long as a pass of a GPU takes.

    Args:
        seconds: Time of a forward pass, whatever its batch.
    """

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.spec = PolicySpec({"front": 224, "wrist": 224}, {"state": 8}, 7, "echo", 10)

    def act(self, observation: Observation) -> Tensor:
        """The same number in every action, ``(B, 10, 7)``."""
        time.sleep(self.seconds)
        return observation["state"][:, :1, None].expand(-1, 10, 7)


@dataclass(frozen=True)
class Load:
    """What the clients of one run saw.

    Args:
        max_batch: The server's largest batch.
        answers: Requests answered.
        per_second: Answers a second.
        p50: Median latency, milliseconds.
        p95: Latency that 95 % stay below, milliseconds.
        wrong: Answers of a wrong shape or, from an echo, to another request.
        errors: What went wrong in clients.
    """

    max_batch: int
    answers: int
    per_second: float
    p50: float
    p95: float
    wrong: int
    errors: tuple[str, ...]


def benchmark(
    actor: Actor | None = None,
    clients: int = 32,
    seconds: float = 10.0,
    max_batch: int = 32,
    layout: str = "plain",
) -> list[Load]:
    """Print latency and throughput of openpi clients on loopback, batching on against off.

    Args:
        actor: The policy; without one, an echo whose pass takes 20 ms, by which every single
            answer is checked against its own request.
        clients: Clients at once, each asking again when it is answered.
        seconds: Length of each of the two runs.
        max_batch: Largest batch with batching on.
        layout: Where the clients keep their observations.

    Returns:
        With batching, then without.
    """
    actor = actor or Echo()
    loads = []
    print(f"{'max_batch':>9} {'answers':>8} {'1/s':>8} {'p50 ms':>8} {'p95 ms':>8} wrong errors")
    for size in (max_batch, 1):
        limits = BatchingConfig(max_batch=size, max_queue=max(clients, 256))
        load = asyncio.run(_measure(Server(actor, layout, limits=limits), clients, seconds))
        loads.append(load)
        print(
            f"{load.max_batch:9} {load.answers:8} {load.per_second:8.1f} {load.p50:8.1f} "
            f"{load.p95:8.1f} {load.wrong:5} {len(load.errors):6}"
        )
        for error in load.errors[:3]:
            print(f"  {error}")
    return loads


async def _measure(server: Server, clients: int, seconds: float) -> Load:
    port = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(server.run("127.0.0.1", 0, port.set_result))
    await asyncio.wait({serving, port}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    script = Path(__file__).with_name("load.py")
    arguments = [str(script), str(await port), str(clients), str(seconds)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    server.stop()
    await serving
    if process.returncode or not output:
        raise ValueError(
            f"The clients ended with {process.returncode}; is openpi-client installed "
            "(pip install 'e0-lightning[serve,clients]')?"
        )
    seen = json.loads(output)
    p50, p95 = np.quantile(seen["latencies"] or [float("nan")], [0.5, 0.95]) * 1000
    answers = len(seen["latencies"])
    return Load(
        max_batch=server.service.limits.max_batch,
        answers=answers,
        per_second=answers / seconds,
        p50=float(p50),
        p95=float(p95),
        wrong=seen["wrong"],
        errors=tuple(seen["errors"]),
    )
