"""Metrics of a running server, for Prometheus."""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np

_RECENT = 1000


class ServerMetrics:
    """Requests, latencies, batch sizes, queue length and connections of one server.

    Latency percentiles are those of the last 1000 successful requests; the histogram has all.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self.requests = Counter(
            "e0_requests", "Requests by outcome", ["protocol", "outcome"], registry=self.registry
        )
        self.latency = Histogram(
            "e0_request_seconds",
            "Time from the arrival of a request to its response",
            ["protocol"],
            buckets=[0.002 * 2**i for i in range(14)],
            registry=self.registry,
        )
        self.batch = Histogram(
            "e0_batch_size",
            "Requests in a forward pass",
            buckets=[2**i for i in range(9)],
            registry=self.registry,
        )
        self.queue = Gauge("e0_queue", "Requests in the queue", registry=self.registry)
        self.clients = Gauge("e0_clients", "Open connections", registry=self.registry)
        self._recent: deque[float] = deque(maxlen=_RECENT)
        percentiles = Gauge(
            "e0_recent_request_seconds",
            "Latency percentiles of recent requests",
            ["quantile"],
            registry=self.registry,
        )
        for level in (0.5, 0.95, 0.99):
            percentiles.labels(str(level)).set_function(partial(self._quantile, level))

    def record_success(self, protocol: str, seconds: float) -> None:
        """Count a request that got actions."""
        self.requests.labels(protocol, "ok").inc()
        self.latency.labels(protocol).observe(seconds)
        self._recent.append(seconds)

    def record_error(self, protocol: str, outcome: str) -> None:
        """Count a request that got an error: ``refused``, ``busy`` or ``failed``."""
        self.requests.labels(protocol, outcome).inc()

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry).decode()

    def _quantile(self, level: float) -> float:
        return float(np.quantile(self._recent, level)) if self._recent else float("nan")
