"""Clients that attack the server beside a client that does not."""

import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest
from scripted_server import SPEC, ScriptedActor, observe, running
from test_serving_server import dial, request, start_server  # noqa: F401  # a fixture

from e0_lightning.benchmarks.hostile_clients import (
    FRAMES,
    idle_sockets,
    ping_flood,
    read_metadata,
    send_frame,
)
from e0_lightning.key_map import load_key_map
from e0_lightning.serving import ServerLimits
from e0_lightning.serving.codec import encode
from e0_lightning.serving.limits import MAX_ERROR, LogRateLimit, shorten
from e0_lightning.serving.parser import ObservationParser

pytest.importorskip("openpi_client", reason="openpi-client is not installed")

METADATA = ObservationParser(load_key_map("plain"), SPEC).describe()
ENCODED = {name: build(METADATA) for name, build in FRAMES.items()}


@pytest.fixture(scope="module")
def shared_server():
    # Large enough for the hostile frames, whose contents are refused then.
    with running(limits=ServerLimits(max_frame=32 * 2**20)) as server:
        yield server


@pytest.mark.parametrize("name", FRAMES)
def test_hostile_frames_are_refused_as_the_clients_error(shared_server, name):
    bystander = dial(shared_server)
    shared_server.actor.batches.clear()
    error = send_frame(shared_server.port, ENCODED[name])
    assert "expected" in error
    assert "in the policy" not in error
    assert len(error) <= MAX_ERROR
    assert shared_server.actor.batches == []
    assert request(bystander, 3.0)[0, 0] == 3
    bystander.close()


def test_innocent_requests_get_responses_beside_hostile_frames(shared_server):
    bystander, errors = dial(shared_server), []

    def attack(frame):
        for _ in range(3):
            errors.append(send_frame(shared_server.port, frame))

    threads = [threading.Thread(target=attack, args=(frame,)) for frame in ENCODED.values()]
    for thread in threads:
        thread.start()
    count = 0
    while any(thread.is_alive() for thread in threads):
        assert request(bystander, float(count))[0, 0] == count
        count += 1
    assert count > 10
    assert len(errors) == 3 * len(ENCODED)
    assert all("expected" in error for error in errors)
    bystander.close()


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


@pytest.fixture
def records():
    """All log records of server, websockets and asyncio, formatted."""
    handler = Records()
    loggers = [logging.getLogger(name) for name in ("e0_lightning", "websockets", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.lines
    for logger in loggers:
        logger.removeHandler(handler)


def test_ping_floods_are_disconnected_and_fill_no_log(records):
    with running() as server:
        bystander = dial(server)
        for _ in range(10):
            ping_flood(server.port)
            assert request(bystander, 1.0)[0, 0] == 1
        bystander.close()
    assert sum(map(len, records)) < 50_000


FLOODS = {
    "pings": b"\x89\x80\x00\x00\x00\x00" * 10_000,
    "empty fragments": b"\x02\x80\x00\x00\x00\x00" + b"\x00\x80\x00\x00\x00\x00" * 10_000,
}


@pytest.mark.parametrize("frames", FLOODS.values(), ids=FLOODS)
def test_a_client_that_sends_frames_too_fast_is_disconnected(server, frames):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        upgrade = b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        client.sendall(b"GET / HTTP/1.1\r\n" + upgrade + key + b"\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 101")
        with suppress(ConnectionError):  # the server disconnects without reading all of it
            client.sendall(frames)
            while client.recv(2**16):
                pass
    assert request(dial(server), 1.0)[0, 0] == 1


def test_idle_sockets_beyond_the_limit_are_refused_and_others_served(records):
    with running(limits=ServerLimits(max_connections=4)) as server:
        bystander = dial(server)
        thread = threading.Thread(target=idle_sockets, args=(server.port, 200, 1.0))
        thread.start()
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as late:
            assert late.recv(100).startswith(b"HTTP/1.1 503")
        assert request(bystander, 1.0)[0, 0] == 1
        thread.join()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                read_metadata(server.port)
                break
            except Exception:
                time.sleep(0.1)
        else:
            pytest.fail("no client could connect after the idle sockets were closed")
        bystander.close()
    assert sum(map(len, records)) < 50_000


def test_sigterm_ends_the_process_while_hostile_frames_are_decoded(start_server):  # noqa: F811
    process, port = start_server(seconds=0.0, grace=2.0)
    is_done = threading.Event()

    def attack(frame):
        while not is_done.is_set():
            try:
                send_frame(port, frame)
            except Exception:  # the server has gone
                time.sleep(0.05)

    names = ["29 MB of empty maps", "images of 2048 x 2048 pixels", "30 MB of NaN in a state"]
    threads = [threading.Thread(target=attack, args=(ENCODED[name],)) for name in names]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    is_done.set()
    assert process.exitcode == 0
    for thread in threads:
        thread.join(30)


def test_errors_in_the_policy_are_logged_a_few_times_only(records):
    with running(ScriptedActor()) as server:
        for _ in range(20):
            client = dial(server)
            client.send(encode(observe(prompt="fail"), bytes))
            assert client.recv() == "RuntimeError in the policy: scripted to fail"
            client.close()
    assert sum("The policy failed" in line for line in records) == 5


def test_the_number_of_dropped_log_messages_is_logged(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit = LogRateLimit(burst=2, period=60.0)

    def passes(message):
        record = logging.LogRecord("name", logging.WARNING, "", 0, message, (1,), None)
        return record.getMessage() if limit.filter(record) else None

    assert [passes("number %d") for _ in range(4)] == ["number 1"] * 2 + [None] * 2
    assert passes("another %d") == "another 1"
    now = 61.0
    assert passes("number %d") == "number 1 (2 similar messages dropped)"
    assert passes("number %d") == "number 1"


def test_long_texts_are_shortened():
    assert shorten("a" * 10, 10) == "a" * 10
    assert shorten("a" * 11, 10) == "a" * 9 + "…"
