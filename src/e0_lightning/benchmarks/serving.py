"""Latency and throughput of the server: batching on and off, hostile clients present and not."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from e0_lightning.serving.batching import BatchingConfig
from e0_lightning.serving.memory import return_large_blocks
from e0_lightning.serving.server import Server
from e0_lightning.types import Actor, Observation, PolicySpec, ViewSize


class Echo:
    """Returns the first number of each state, after as long as a forward pass of a GPU takes.

    Args:
        seconds: Time of a forward pass, whatever its batch size.
    """

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        size = ViewSize(224, 224)
        self.spec = PolicySpec({"front": size, "wrist": size}, {"state": 8}, 7, "echo", 10)

    def act(self, observation: Observation) -> Tensor:
        """The same number in every action, ``(B, 10, 7)``."""
        time.sleep(self.seconds)
        return observation["state"][:, :1, None].expand(-1, 10, 7)


@dataclass(frozen=True)
class Load:
    """Results of the clients of one run.

    Args:
        responses: Requests with a response.
        per_second: Responses per second.
        p50: Median latency, milliseconds.
        p95: 95th percentile of the latency, milliseconds.
        wrong: Responses of a wrong shape or, from an echo, to another request.
        errors: Errors of clients.
        memory: The server's resident memory after the run, MiB.
        attacks: Attacks of hostile clients, by kind.
    """

    responses: int
    per_second: float
    p50: float
    p95: float
    wrong: int
    errors: tuple[str, ...]
    memory: float
    attacks: dict[str, int]


def benchmark(
    actor: Actor | None = None,
    clients: int = 32,
    seconds: float = 10.0,
    max_batch: int = 32,
    key_map: str = "plain",
) -> list[Load]:
    """Print latency and throughput of openpi clients on loopback, with batching and without.

    Args:
        actor: The policy; without one, an echo with a forward pass of 20 ms, which lets every
            response be checked against its request.
        clients: Concurrent clients, each with one request at a time.
        seconds: Length of each of the two runs.
        max_batch: Largest batch with batching on.
        key_map: Key map of the server.

    Returns:
        With batching, then without.
    """
    actor = actor or Echo()
    loads = []
    _print_header("max_batch")
    for size in (max_batch, 1):
        batching = BatchingConfig(max_batch=size, max_queue=max(clients, 256))
        server = Server(actor, key_map, batching=batching)
        loads.append(asyncio.run(_measure(server, clients, seconds)))
        _print_load(str(size), loads[-1])
    return loads


def benchmark_hostile(
    actor: Actor | None = None,
    clients: int = 8,
    seconds: float = 10.0,
    key_map: str = "plain",
) -> list[Load]:
    """Print the latency of openpi clients alone and beside clients that attack the server.

    Args:
        actor: The policy; without one, an echo with a forward pass of 20 ms.
        clients: Concurrent clients whose latency is measured.
        seconds: Length of each of the two runs.
        key_map: Key map of the server.

    Returns:
        Alone, then beside hostile clients.
    """
    actor = actor or Echo()
    return_large_blocks()
    loads = []
    _print_header("clients")
    for name, is_hostile in (("quiet", False), ("hostile", True)):
        loads.append(asyncio.run(_measure(Server(actor, key_map), clients, seconds, is_hostile)))
        _print_load(name, loads[-1])
    quiet, hostile = loads
    print(f"p95 hostile / quiet: {hostile.p95 / quiet.p95:.2f}")
    print(f"memory after / before: {hostile.memory / quiet.memory:.2f}")
    print("\n".join(f"{count:7} x {name}" for name, count in hostile.attacks.items()))
    return loads


def _print_header(name: str) -> None:
    print(f"{name:>9} responses      1/s   p50 ms   p95 ms wrong errors MiB")


def _print_load(name: str, load: Load) -> None:
    print(
        f"{name:>9} {load.responses:9} {load.per_second:8.1f} {load.p50:8.1f} {load.p95:8.1f} "
        f"{load.wrong:5} {len(load.errors):6} {load.memory:.0f}"
    )
    for error in load.errors[:3]:
        print(f"  {error}")


async def _measure(server: Server, clients: int, seconds: float, is_hostile: bool = False) -> Load:
    opened = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(server.run("127.0.0.1", 0, opened.set_result))
    await asyncio.wait({serving, opened}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    port = await opened
    scripts = [_run_script("load_clients.py", port, clients, seconds)]
    if is_hostile:
        scripts.append(_run_script("hostile_clients.py", port, seconds + 2))
    results, *attacks = await asyncio.gather(*scripts)
    server.stop()
    await serving
    p50, p95 = np.quantile(results["latencies"] or [float("nan")], [0.5, 0.95]) * 1000
    responses = len(results["latencies"])
    return Load(
        responses=responses,
        per_second=responses / seconds,
        p50=float(p50),
        p95=float(p95),
        wrong=results["wrong"],
        errors=tuple(results["errors"]),
        memory=_resident_memory(),
        attacks={name: sum(each.values()) for name, each in attacks[0].items()} if attacks else {},
    )


async def _run_script(name: str, *arguments: float) -> Any:
    """Run a script beside this file in a process of its own and return its JSON output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name(name)),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode or not output:
        raise ValueError(
            f"expected results of {name}, got exit status {process.returncode}. Install "
            "openpi-client: pip install 'e0-lightning[serve,clients]'."
        )
    return json.loads(output)


def _resident_memory() -> float:
    """Resident memory of this process in MiB, without garbage; NaN without /proc."""
    gc.collect()
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096 / 2**20 if path.exists() else float("nan")
