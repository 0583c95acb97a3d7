"""Whatever one client does, the server stays up and the others never notice."""

import asyncio
import multiprocessing
import os
import pickle
import re
import signal
import socket
import threading
import time
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from serving_world import Teller, observe, running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from e0_lightning.serving import BatchingConfig, Server
from e0_lightning.serving.codec import decode, encode


def dial(server):
    client = connect(server.url, compression=None, max_size=None)
    client.recv()
    return client


def ask(client, tag=0.0, **others):
    client.send(encode(observe(tag, **others), bytes))
    return decode(client.recv())["actions"]


def objects(dtype, shape):
    """What numpy would unpickle, if one let it."""
    data = pickle.dumps({})
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}


FAULTS = {
    "garbage": (b"\xc1\xff garbage", "not msgpack"),
    "half a message": (encode(observe(), bytes)[:-20], "not msgpack"),
    "a list": (msgpack.packb([1, 2]), "Found a list"),
    "nothing": (b"", "not msgpack"),
    "text": ("hello", "binary msgpack"),
    "an object array": (
        msgpack.packb({"images": {"front": objects("|O", [1])}}),
        "objects, records and complex numbers are refused",
    ),
    "an image that is not a number": (
        encode(observe(images={"front": np.full((16, 16, 3), np.nan, np.float32)}), bytes),
        "images/front.*nan.*wanted 0 to 1",
    ),
    "integers for an image": (
        encode(observe(images={"front": np.zeros((16, 16, 3), np.int64)}), bytes),
        "images/front.*int64.*uint8",
    ),
    "a state that is not a number": (
        encode(observe(state={"joints": np.array([0, np.nan]), "gripper": [1.0]}), bytes),
        "state/joints.*nan.*finite",
    ),
    "a state too long": (
        encode(observe(state={"joints": np.zeros(5), "gripper": [1.0]}), bytes),
        r"state/joints.*\(5,\).*2 numbers",
    ),
    "a state in words": (
        encode(observe(state={"joints": ["a", "b"], "gripper": [1.0]}), bytes),
        "state/joints.*wanted 2",
    ),
    "another key": (
        encode({**observe(), "state": {"angles": np.zeros(2)}}, bytes),
        "'state/joints'.*state/angles",
    ),
    "two instructions": (encode(observe(prompt=["a", "b"]), bytes), "prompt.*list"),
}


@pytest.mark.parametrize(("frame", "words"), FAULTS.values(), ids=FAULTS)
def test_a_bad_frame_is_named_and_hurts_only_its_sender(server, frame, words):
    bystander, client = dial(server), dial(server)
    client.send(frame)
    message = client.recv()
    assert isinstance(message, str)
    assert re.search(words, message, re.DOTALL), message
    with pytest.raises(ConnectionClosed) as end:
        client.recv()
    assert end.value.rcvd.code == 1011
    assert ask(bystander, 3.0)[0, 0] == 3
    bystander.close()


@pytest.mark.parametrize("dtype", ["|O", "O8", "|V8", "<c8", "<M8[ns]", "i4,f8", "u1" * 99, 7])
def test_arrays_of_anything_but_numbers_and_text_are_refused(dtype):
    with pytest.raises(ValueError, match="refused"):
        decode(msgpack.packb(objects(dtype, [1])))


def test_a_frame_over_the_limit_is_turned_away():
    with running(limits=BatchingConfig(max_frame=2**20)) as server:
        bystander, client = dial(server), dial(server)
        with suppress(ConnectionClosed):
            client.send(bytes(100 * 2**20))
        with pytest.raises(ConnectionClosed) as end:
            client.recv()
        assert end.value.rcvd is None or end.value.rcvd.code == 1009
        assert ask(bystander, 2.0)[0, 0] == 2
        bystander.close()


def test_half_a_frame_and_a_killed_client_leave_nothing_behind(server):
    bystander, half, killed = dial(server), dial(server), dial(server)
    half.socket.sendall(b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00abcd and no more")
    server.actor.seconds = 0.2
    killed.send(encode(observe(), bytes))
    killed.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    killed.socket.shutdown(socket.SHUT_RDWR)
    assert ask(bystander, 2.0)[0, 0] == 2
    half.socket.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 5
    while server.server.service.batcher.clients > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.server.service.batcher.clients == 1
    bystander.close()


def test_a_client_that_floods_gets_its_turn_and_no_more():
    actor = Teller(seconds=0.02)
    with running(actor, limits=BatchingConfig(max_batch=1)) as server:
        greedy, modest = dial(server), dial(server)
        for number in range(40):
            greedy.send(encode(observe(float(number)), bytes))
        start = time.perf_counter()
        assert ask(modest, 7.0)[0, 0] == 7
        assert time.perf_counter() - start < 0.4  # 40 turns would be 0.8 seconds
        assert [decode(greedy.recv())["actions"][0, 0] for _ in range(40)] == list(range(40))
        greedy.close()
        modest.close()


def test_stopping_ends_idle_connections_politely():
    with running() as server:
        client = dial(server)
        server.stop()
        with pytest.raises(ConnectionClosed) as end:
            client.recv()
        assert end.value.rcvd.code == 1001


def serve_slowly(pipe):
    server = Server(Teller(seconds=0.2), limits=BatchingConfig(max_batch=2, max_wait=0.01))
    asyncio.run(server.run("127.0.0.1", 0, pipe.send))


def test_sigterm_under_load_answers_what_is_in_flight_and_exits_0():
    # A fork, because a process of its own would import torch and Lightning first.
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve_slowly, args=(far,))
    process.start()
    try:
        assert near.poll(20)
        port = near.recv()
        answers, ends = {}, []

        def play(number):
            client = connect(f"ws://127.0.0.1:{port}", compression=None)
            client.recv()
            answers[number] = ask(client, float(number))[0, 0]
            with pytest.raises(ConnectionClosed) as end:
                client.recv()
            ends.append(end.value.rcvd.code)

        threads = [threading.Thread(target=play, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.4)  # 8 requests in pairs of 0.2 s: some done, some waiting
        os.kill(process.pid, signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        process.join(20)
        assert answers == {number: number for number in range(8)}
        assert ends == [1001] * 8
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
