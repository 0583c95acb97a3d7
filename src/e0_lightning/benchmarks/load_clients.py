"""Concurrent openpi clients, run as a script in a process of its own.

It imports nothing of this package: clients and server do not share an interpreter, and the clients
start without waiting for torch.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import numpy as np


class Client(threading.Thread):
    """Sends the next request as soon as the last one has its response, until the time is up.

    Args:
        port: Port of the server.
        number: Number of this client, part of every tag that it sends.
        seconds: How long to send requests.
        barrier: Where all clients wait for each other before the first request.
    """

    def __init__(self, port: int, number: int, seconds: float, barrier: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self.port, self.number, self.seconds, self.barrier = port, number, seconds, barrier
        self.latencies: list[float] = []
        self.wrong = 0
        self.error = ""

    def run(self) -> None:
        """Send requests and check the responses."""
        from openpi_client.websocket_client_policy import WebsocketClientPolicy

        try:
            policy = WebsocketClientPolicy("127.0.0.1", self.port)
            metadata = policy.get_server_metadata()["e0"]
            observation = self._observation(metadata)
            self.barrier.wait()
            end = time.perf_counter() + self.seconds
            while (begin := time.perf_counter()) < end:
                tag = self._set_tag(observation, metadata)
                actions = policy.infer(observation)["actions"]
                self.latencies.append(time.perf_counter() - begin)
                is_echoed = metadata["control_mode"] != "echo" or (actions == tag).all()
                self.wrong += list(actions.shape) != metadata["actions"] or not is_echoed
        except Exception as error:
            self.error = f"client {self.number}: {type(error).__name__}: {error}"
            self.barrier.abort()

    def _observation(self, metadata: dict[str, Any]) -> dict[str, Any]:
        noise = np.random.default_rng(self.number)
        images = {k: noise.integers(0, 256, s, np.uint8) for k, s in metadata["images"].items()}
        states = {key: np.zeros(dims) for key, dims in metadata["state"].items()}
        return {**images, **states, metadata["prompt"]: "load"}

    def _set_tag(self, observation: dict[str, Any], metadata: dict[str, Any]) -> float:
        """Fill the state with a number that no other request has and that an echo returns."""
        tag = float(np.float32(self.number + len(self.latencies) / 2**12))
        for key in metadata["state"]:
            observation[key][:] = tag
        return tag


def main(port: int, clients: int, seconds: float) -> None:
    """Print latencies, wrong responses and errors of all clients, as JSON."""
    barrier = threading.Barrier(clients)
    threads = [Client(port, number, seconds, barrier) for number in range(clients)]
    for client in threads:
        client.start()
    for client in threads:
        client.join(seconds + 60)
    results = {
        "latencies": [latency for client in threads for latency in client.latencies],
        "wrong": sum(client.wrong for client in threads),
        "errors": [client.error for client in threads if client.error]
        + [f"client {client.number}: no response" for client in threads if client.is_alive()],
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
