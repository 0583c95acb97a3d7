"""`e0 serve` and `e0 benchmark serve`: serve a checkpoint, and measure the server under load."""

from __future__ import annotations

import logging
import os
from typing import Literal

import torch

from e0_lightning.benchmarks.serving import benchmark, benchmark_hostile
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.serving.batching import BatchingConfig
from e0_lightning.serving.limits import ServerLimits
from e0_lightning.serving.server import Server
from e0_lightning.serving.server import serve as run_server
from e0_lightning.types import ActionSampler

Precision = Literal["32-true", "bf16-mixed"]
"""The trainer's option of this name."""


def serve(
    checkpoint: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    key_map: str = "plain",
    instruction: str | None = None,
    n_action_steps: int | None = None,
    precision: Precision = "32-true",
    trust: list[str] | str | None = None,
    compile: bool = False,
    batching: BatchingConfig | None = None,
    limits: ServerLimits | None = None,
) -> None:
    """Serve a policy to robots and benchmarks; on a GPU if there is one.

    openpi clients connect to ws://host:port, vla-eval to ws://host:port/vla-eval; /healthz, /health
    and /metrics respond to plain HTTP.

    Args:
        checkpoint: Checkpoint of the trainer.
        host: Address to listen on; 0.0.0.0 is every address of this machine.
        port: Port; 0 takes a free one.
        api_key: Key that clients must send, `Authorization: Api-Key KEY` or ws://any:KEY@host:port.
        key_map: Keys of the clients' observations: plain, maniskill, libero, vlabench, droid,
            aloha, or a YAML file.
        instruction: Instruction for requests without one.
        n_action_steps: Steps of a chunk that clients get; None for as many as the key map allows.
            Clients of vla-eval execute all of them before the next inference.
        precision: bf16-mixed computes in bfloat16, as `lightning test` does with this option.
        trust: Packages or modules whose classes the checkpoint may build, besides this package.
        compile: Compile the networks before the server starts, for faster inference; takes a
            minute or more, and again when a batch has another size.
        batching: Dynamic batching.
        limits: Limits on clients.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    actor = load(checkpoint, precision, trust, compile)
    server = Server(actor, key_map, instruction, n_action_steps, api_key, batching, limits)
    run_server(server, host, port)
    if server.service.is_busy:
        # The grace is over; a thread inside of torch would abort the interpreter's shutdown.
        logging.shutdown()
        os._exit(0)


def benchmark_serving(
    checkpoint: str | None = None,
    clients: int = 32,
    seconds: float = 10.0,
    max_batch: int = 32,
    key_map: str = "plain",
    precision: Precision = "32-true",
    trust: list[str] | str | None = None,
    hostile: bool = False,
) -> None:
    """Print latency and throughput of openpi clients on loopback, with batching and without.

    Args:
        checkpoint: Checkpoint of the trainer; without one, an echo with a forward pass of 20 ms,
            which lets every response be checked against its request.
        clients: Concurrent clients, each with one request at a time.
        seconds: Length of each of the two runs.
        max_batch: Largest batch with batching on.
        key_map: Key map of the server.
        precision: As in `e0 serve`.
        trust: As in `e0 serve`.
        hostile: Compare the clients alone and beside clients that attack the server, instead of
            batching and no batching.
    """
    actor = None if checkpoint is None else load(checkpoint, precision, trust)
    if hostile:
        benchmark_hostile(actor, clients, seconds, key_map)
    else:
        benchmark(actor, clients, seconds, max_batch, key_map)


def load(
    checkpoint: str,
    precision: Precision = "32-true",
    trust: list[str] | str | None = None,
    compile: bool = False,
) -> ActionSampler:
    """Load a checkpoint, on a GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trusted = [trust] if isinstance(trust, str) else trust or []
    return load_policy(checkpoint, device, precision, trusted, compile)
