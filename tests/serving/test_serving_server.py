"""The server under faults of single clients, under load at shutdown, and at its limits."""

import asyncio
import dataclasses
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from scripted_server import SPEC, ScriptedActor, observe, running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from e0_lightning.serving import BatchingConfig, Server, ServerLimits
from e0_lightning.serving.codec import decode, encode


def dial(server):
    client = connect(server.url, compression=None, max_size=None)
    client.recv()
    return client


def request(client, tag=0.0, **changes):
    client.send(encode(observe(tag, **changes), bytes))
    return decode(client.recv())["actions"]


INVALID = {
    "no msgpack": (b"\xc1\xff garbage", "expected msgpack"),
    "half a message": (encode(observe(), bytes)[:-20], "expected msgpack"),
    "a list": (msgpack.packb([1, 2]), "got a list"),
    "an empty frame": (b"", "expected msgpack"),
    "a text frame": ("hello", "expected a binary frame"),
    "an object array": (
        msgpack.packb({"a": {b"__ndarray__": True, b"data": b"", b"dtype": "|O", b"shape": [1]}}),
        "objects, records and complex numbers are refused",
    ),
    "an image of NaN": (
        encode(observe(images={"front": np.full((16, 16, 3), np.nan, np.float32)}), bytes),
        "images/front: expected float pixels from 0 to 1.*nan",
    ),
    "an image of int64": (
        encode(observe(images={"front": np.zeros((16, 16, 3), np.int64)}), bytes),
        "images/front: expected uint8.*int64",
    ),
    "a state of NaN": (
        encode(observe(state={"joints": np.array([0, np.nan]), "gripper": [1.0]}), bytes),
        "state/joints: expected 2 numbers, finite.*got nan",
    ),
    "a state of five numbers": (
        encode(observe(state={"joints": np.zeros(5), "gripper": [1.0]}), bytes),
        r"state/joints: expected 2 numbers.*\(5,\)",
    ),
    "a state of text": (
        encode(observe(state={"joints": ["a", "b"], "gripper": [1.0]}), bytes),
        "state/joints: expected 2 numbers",
    ),
    "another key": (
        encode({**observe(), "state": {"angles": np.zeros(2)}}, bytes),
        "'state/joints'.*state/angles",
    ),
    "two instructions": (encode(observe(prompt=["a", "b"]), bytes), "prompt.*list"),
}


@pytest.mark.parametrize(("frame", "error"), INVALID.values(), ids=INVALID)
def test_an_invalid_frame_closes_only_its_own_connection(server, frame, error):
    bystander, client = dial(server), dial(server)
    client.send(frame)
    message = client.recv()
    assert isinstance(message, str)
    assert re.search(error, message, re.DOTALL), message
    with pytest.raises(ConnectionClosed) as end:
        client.recv()
    assert end.value.rcvd.code == 1011
    assert request(bystander, 3.0)[0, 0] == 3
    bystander.close()


def test_a_frame_over_max_frame_is_refused():
    with running(limits=ServerLimits(max_frame=2**20)) as server:
        bystander, client = dial(server), dial(server)
        with suppress(ConnectionClosed):
            client.send(bytes(100 * 2**20))
        with pytest.raises(ConnectionClosed) as end:
            client.recv()
        assert end.value.rcvd is None or end.value.rcvd.code == 1009
        assert request(bystander, 2.0)[0, 0] == 2
        bystander.close()


@pytest.mark.parametrize("steps", [1, 3])
def test_the_default_max_frame_fits_raw_full_hd_images_of_all_views(steps):
    spec = dataclasses.replace(SPEC, n_obs_steps=steps)
    hd = observe(images=dict.fromkeys(spec.views, np.zeros((1080, 1920, 3), np.uint8)))
    message = encode({**hd, "history": [hd] * (steps - 1)}, bytes)
    assert len(message) < ServerLimits().largest_message(spec) < 1.2 * len(message)


def test_large_frames_of_several_clients_are_read(server):
    clients = [dial(server) for _ in range(3)]
    image = np.full((1440, 1440, 3), 7, np.uint8)
    images = {"front": image, "wrist": np.zeros((8, 8, 3), np.uint8)}
    threads = [
        threading.Thread(target=client.send, args=(encode(observe(n, images=images), bytes),))
        for n, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for n, client in enumerate(clients):
        assert decode(client.recv(20))["actions"][0].tolist() == [n, 7, 0]
        client.close()


def test_half_frames_and_killed_clients_leave_no_connection_open(server):
    bystander, half, killed = dial(server), dial(server), dial(server)
    half.socket.sendall(b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00abcd and no more")
    server.actor.seconds = 0.2
    killed.send(encode(observe(), bytes))
    killed.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    killed.socket.shutdown(socket.SHUT_RDWR)
    assert request(bystander, 2.0)[0, 0] == 2
    half.socket.shutdown(socket.SHUT_RDWR)
    service = server.server.service
    deadline = time.monotonic() + 5
    while service.batcher.clients > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert service.batcher.clients == len(service.idle_since) == 1
    bystander.close()


def test_a_client_with_many_requests_does_not_delay_others():
    actor = ScriptedActor(seconds=0.02)
    with running(actor, batching=BatchingConfig(max_batch=1)) as server:
        greedy, modest = dial(server), dial(server)
        sender = threading.Thread(
            target=lambda: [greedy.send(encode(observe(float(n)), bytes)) for n in range(40)]
        )
        sender.start()
        assert request(modest, 7.0)[0, 0] == 7
        assert len(actor.batches) < 20
        assert [decode(greedy.recv())["actions"][0, 0] for _ in range(40)] == list(range(40))
        sender.join()
        greedy.close()
        modest.close()


def test_clients_beyond_max_connections_are_refused_until_one_leaves():
    from websockets.exceptions import InvalidStatus

    with running(limits=ServerLimits(max_connections=2)) as server:
        first, second = dial(server), dial(server)
        with pytest.raises(InvalidStatus) as refusal:
            dial(server)
        assert refusal.value.response.status_code == 503
        assert b"at most 2 clients" in refusal.value.response.body
        assert request(first, 1.0)[0, 0] == 1
        second.close()
        third = dial(server)
        assert request(third, 3.0)[0, 0] == 3
        first.close()
        third.close()


def test_idle_clients_are_disconnected_when_another_needs_the_place():
    with running(limits=ServerLimits(max_connections=2, idle_timeout=0.0)) as server:
        idle, active = dial(server), dial(server)
        request(active)
        newcomer = dial(server)
        with pytest.raises(ConnectionClosed) as end:
            idle.recv()
        assert end.value.rcvd.code == 1013
        assert request(active, 1.0)[0, 0] == 1
        assert request(newcomer, 2.0)[0, 0] == 2
        active.close()
        newcomer.close()


def test_max_connections_is_lowered_to_fit_the_limit_on_open_files(monkeypatch, caplog):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert Server(ScriptedActor()).max_connections == 64
    assert "the limit on open files is 256" in caplog.text


@pytest.mark.parametrize(
    "changes", [{"max_connections": 0}, {"max_pixels": 0}, {"max_frame": 0}, {"grace": -1}]
)
def test_impossible_limits_are_refused(changes):
    with pytest.raises(ValueError, match=r"expected .* at least"):
        ServerLimits(**changes)


def test_stopping_closes_idle_connections_with_code_1001():
    with running() as server:
        client = dial(server)
        server.stop()
        with pytest.raises(ConnectionClosed) as end:
            client.recv()
        assert end.value.rcvd.code == 1001


def serve_slowly(pipe, seconds, grace):
    actor = ScriptedActor()
    batching = BatchingConfig(max_batch=2, max_wait=0.01)
    server = Server(actor, batching=batching, limits=ServerLimits(grace=grace))

    def on_open(port):
        actor.seconds = seconds
        pipe.send(port)

    asyncio.run(server.run("127.0.0.1", 0, on_open))


@pytest.fixture
def start_server():
    """A function that starts `serve_slowly` in a process and returns it and its port."""
    processes = []

    def start(seconds, grace):
        # A fork, since another process would import torch and Lightning first.
        ours, theirs = multiprocessing.Pipe()
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=serve_slowly, args=(theirs, seconds, grace))
        process.start()
        processes.append(process)
        assert ours.poll(20)
        return process, ours.recv()

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_sigterm_under_load_finishes_requests_in_flight_and_exits_0(start_server):
    process, port = start_server(seconds=0.2, grace=30.0)
    tags, codes = {}, []

    def run_client(number):
        client = connect(f"ws://127.0.0.1:{port}", compression=None)
        client.recv()
        tags[number] = request(client, float(number))[0, 0]
        with pytest.raises(ConnectionClosed) as end:
            client.recv()
        codes.append(end.value.rcvd.code)

    threads = [threading.Thread(target=run_client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.4)  # 8 requests in pairs of 0.2 s: some finished, some in the queue
    os.kill(process.pid, signal.SIGTERM)
    for thread in threads:
        thread.join(20)
    process.join(20)
    assert tags == {number: number for number in range(8)}
    assert codes == [1001] * 8
    assert process.exitcode == 0


def test_sigterm_ends_the_process_within_its_grace_during_a_long_forward_pass(start_server):
    process, port = start_server(seconds=60.0, grace=0.5)
    client = connect(f"ws://127.0.0.1:{port}", compression=None)
    client.recv()
    client.send(encode(observe(), bytes))
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == 0
    client.socket.close()
