"""`e0 serve` and `e0 benchmark serve`: a checkpoint on a socket, and how it bears a crowd."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from e0_lightning.benchmarks.serving import benchmark as benchmark_actor
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.serving.batching import BatchingConfig
from e0_lightning.serving.server import serve as serve_actor
from e0_lightning.types import ActionSampler

Precision = Literal["32-true", "bf16-mixed"]
"""As the trainer's option of this name."""


def serve(
    checkpoint: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    layout: str = "plain",
    prompt: str | None = None,
    limits: BatchingConfig | None = None,
    n_action_steps: int | None = None,
    precision: Precision = "32-true",
) -> None:
    """Let robots and benchmarks use a policy; on a GPU where there is one.

    openpi clients connect to ws://host:port, vla-eval to ws://host:port/vla-eval; /healthz, /health
    and /metrics answer plain HTTP.

    Args:
        checkpoint: Written by the trainer.
        host: Address to listen at; 0.0.0.0 is all of this machine's.
        port: Port; 0 takes a free one.
        api_key: Key that clients must send, `Authorization: Api-Key KEY` or ws://any:KEY@host:port.
        layout: Where clients keep what the policy wants: plain, maniskill, libero, vlabench, droid,
            aloha, or a YAML file.
        prompt: Instruction for requests without one.
        limits: Batch, wait, queue, frame size and grace.
        n_action_steps: Steps of a chunk that clients are given, as few as rollouts carry out; None for all
            that the layout takes. vla-eval's clients carry them all out before they ask again.
        precision: bf16-mixed computes in bfloat16, as `lightning test` does when told the same.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    serve_actor(
        load(checkpoint, precision), host, port, api_key, layout, prompt, limits, n_action_steps
    )


def benchmark_serving(
    checkpoint: str | None = None,
    clients: int = 32,
    seconds: float = 10.0,
    max_batch: int = 32,
    layout: str = "plain",
    precision: Precision = "32-true",
) -> None:
    """Print latency and throughput of openpi clients on loopback, batching on against off.

    Args:
        checkpoint: Written by the trainer; without one, an echo whose pass takes 20 ms, by which
            every single answer is checked against its own request.
        clients: Clients at once, each asking again when it is answered.
        seconds: Length of each of the two runs.
        max_batch: Largest batch with batching on.
        layout: Where the clients keep their observations.
        precision: As that of `e0 serve`.
    """
    actor = None if checkpoint is None else load(checkpoint, precision)
    benchmark_actor(actor, clients, seconds, max_batch, layout)


def load(checkpoint: str, precision: Precision = "32-true") -> ActionSampler:
    """Open a checkpoint, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_policy(checkpoint, device, precision)
