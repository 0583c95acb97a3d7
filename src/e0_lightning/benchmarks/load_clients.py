"""Many openpi clients at once, run as a script in a process of its own.

It imports nothing of this package: clients and server must not share an interpreter, nor should
one wait for the other's imports.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import numpy as np


class Client(threading.Thread):
    """Asks again as soon as it is answered, until the time is up.

    Args:
        port: Where the server is.
        number: Of this client, part of every tag it sends.
        seconds: How long to ask.
        start: Where all clients wait for each other.
    """

    def __init__(self, port: int, number: int, seconds: float, start: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self.projection, self.number, self.seconds, self.start_line = port, number, seconds, start
        self.latencies: list[float] = []
        self.wrong = 0
        self.error = ""

    def run(self) -> None:
        """Ask and check."""
        from openpi_client.websocket_client_policy import WebsocketClientPolicy

        try:
            policy = WebsocketClientPolicy("127.0.0.1", self.projection)
            wanted = policy.get_server_metadata()["e0"]
            observation = self._observation(wanted)
            self.start_line.wait()
            end = time.perf_counter() + self.seconds
            while (begin := time.perf_counter()) < end:
                tag = self._mark(observation, wanted)
                actions = policy.infer(observation)["actions"]
                self.latencies.append(time.perf_counter() - begin)
                is_told = wanted["control_mode"] != "echo" or (actions == tag).all()
                self.wrong += list(actions.shape) != wanted["actions"] or not is_told
        except Exception as error:
            self.error = f"client {self.number}: {type(error).__name__}: {error}"
            self.start_line.abort()

    def _observation(self, wanted: dict[str, Any]) -> dict[str, Any]:
        noise = np.random.default_rng(self.number)
        images = {k: noise.integers(0, 256, s, np.uint8) for k, s in wanted["images"].items()}
        states = {key: np.zeros(dims) for key, dims in wanted["state"].items()}
        return {**images, **states, wanted["prompt"]: "load"}

    def _mark(self, observation: dict[str, Any], wanted: dict[str, Any]) -> float:
        """Make the observation unlike any other; an echo tells it back."""
        tag = float(np.float32(self.number + len(self.latencies) / 2**12))
        for key in wanted["state"]:
            observation[key][:] = tag
        return tag


def main(port: int, clients: int, seconds: float) -> None:
    """Print what all clients together saw, as JSON."""
    start = threading.Barrier(clients)
    crowd = [Client(port, number, seconds, start) for number in range(clients)]
    for client in crowd:
        client.start()
    for client in crowd:
        client.join(seconds + 60)
    answers = {
        "latencies": [latency for client in crowd for latency in client.latencies],
        "wrong": sum(client.wrong for client in crowd),
        "errors": [client.error for client in crowd if client.error]
        + [f"client {client.number}: no answer" for client in crowd if client.is_alive()],
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
