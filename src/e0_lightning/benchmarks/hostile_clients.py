"""Clients that try to stall or fill a server, run as a script in a process of its own.

It imports nothing of this package, as load_clients.py.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

Metadata = dict[str, Any]
"""The server's metadata: keys and shapes that it expects."""


def pack(message: Any) -> bytes:
    """Encode a message as openpi does."""
    from openpi_client import msgpack_numpy

    packed: bytes = msgpack_numpy.packb(message)
    return packed


def observation(metadata: Metadata, **changes: Any) -> dict[str, Any]:
    """A valid observation; ``images`` replaces all images, ``state`` the first state part."""
    values = {key: np.zeros(shape, np.uint8) for key, shape in metadata["images"].items()}
    if "images" in changes:
        values = dict.fromkeys(values, changes["images"])
    states = {key: np.zeros(dims) for key, dims in metadata["state"].items()}
    if states and "state" in changes:
        states[next(iter(states))] = changes["state"]
    return {**values, **states, metadata["prompt"]: changes.get("prompt", "push")}


def array(dtype: str, shape: list[int], data: bytes) -> dict[bytes, Any]:
    """An array on the wire, its fields chosen freely."""
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}


def png(side: int) -> bytes:
    """A black PNG of ``side`` x ``side`` pixels, a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(side * (1 + 3 * side)))
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def compressed(data: bytes) -> dict[str, Any]:
    """A compressed image as vla-eval sends it."""
    return {"__image__": True, "format": "png", "data": data, "shape": []}


FRAMES: dict[str, Callable[[Metadata], bytes]] = {
    "30 MB of NaN in a state": lambda metadata: pack(
        observation(metadata, state=np.full(30 * 2**18, np.nan, np.float32))
    ),
    "29 MB of empty maps": lambda _: b"\xdd" + struct.pack(">I", 29 * 2**20) + b"\x80" * 29 * 2**20,
    "16 MB of empty maps in lists": lambda _: (
        b"\xdc\xff\xff" + (b"\xdc\x00\xff" + b"\x80" * 255) * 65535
    ),
    "10 MB of nested lists": lambda _: b"\x91" * 10 * 2**20,
    "an instruction of 4 MB": lambda metadata: pack(observation(metadata, prompt="a" * 4 * 2**20)),
    "an instruction of 4 MB in an array": lambda metadata: pack(
        observation(metadata, prompt=array("<U1048576", [1], b"a\0\0\0" * 2**20))
    ),
    "images of 4096 x 4096 pixels": lambda metadata: pack(
        observation(metadata, images=compressed(png(4096)))
    ),
    "images of 2048 x 2048 pixels": lambda metadata: pack(
        observation(metadata, images=compressed(png(2048)), state=[])
    ),
    "a billion elements of no bytes": lambda metadata: pack(
        observation(metadata, state=array("|S0", [10**9], b""))
    ),
    "text of invalid code points": lambda metadata: pack(
        observation(metadata, prompt=array("<U1", [1], b"\xff\xff\xff\xff"))
    ),
    "a state of text": lambda metadata: pack(
        observation(metadata, state=np.full(state_dims(metadata), "1"))
    ),
    "a state of 3e38": lambda metadata: pack(
        observation(metadata, state=np.full(state_dims(metadata), -3e38))
    ),
}
"""Frames that must be refused, by what they hold."""


def state_dims(metadata: Metadata) -> int:
    """Numbers of the first part of the state."""
    return next(iter(metadata["state"].values()), 1)


def read_metadata(port: int) -> Metadata:
    """Connect, read the server's metadata and disconnect."""
    from openpi_client import msgpack_numpy
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}", compression=None) as client:
        metadata: Metadata = msgpack_numpy.unpackb(client.recv())["e0"]
        return metadata


def send_frame(port: int, frame: bytes) -> str:
    """Send one frame and return the server's error text, empty if it accepts the frame."""
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as client:
        client.recv()
        client.send(frame)
        reply = client.recv()
        return reply if isinstance(reply, str) else ""


def ping_flood(port: int) -> None:
    """Send pings without reading pongs, then hang up without closing."""
    from websockets.sync.client import connect

    client = connect(f"ws://127.0.0.1:{port}", compression=None)
    ping = b"\x89\x80\x00\x00\x00\x00"
    with suppress(OSError):
        for _ in range(20):
            client.socket.sendall(ping * 100)
    with suppress(OSError):  # the server may have hung up first
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.shutdown(socket.SHUT_RDWR)


def idle_sockets(port: int, count: int, seconds: float) -> int:
    """Open sockets that send nothing, hold them, and return how many were accepted."""
    sockets = []
    for _ in range(count):
        with suppress(OSError):
            sockets.append(socket.create_connection(("127.0.0.1", port), timeout=1))
    time.sleep(seconds)
    for each in sockets:
        each.close()
    return len(sockets)


def _repeat(attack: Callable[[], Any], end: float, counts: dict[str, int]) -> None:
    while time.monotonic() < end:
        try:
            is_accepted = attack() == ""
        except Exception:  # refused or disconnected, as it should be
            is_accepted = False
            time.sleep(0.01)
        counts["accepted" if is_accepted else "refused"] += 1


def main(port: int, seconds: float) -> None:
    """Run every attack over and over, each in a thread, and print the outcomes, as JSON."""
    os.nice(10)  # attackers use the network of the server, not its processor
    metadata = read_metadata(port)
    attacks: dict[str, Callable[[], Any]] = {
        name: partial(send_frame, port, build(metadata)) for name, build in FRAMES.items()
    }
    attacks["2000 pings"] = partial(ping_flood, port)
    attacks["200 idle sockets"] = partial(idle_sockets, port, 200, 1.0)
    counts = {name: {"refused": 0, "accepted": 0} for name in attacks}
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_repeat, args=(attack, end, counts[name]), daemon=True)
        for name, attack in attacks.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
