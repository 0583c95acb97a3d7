"""A scripted actor whose actions identify the observation, and a server in a thread."""

import asyncio
import threading
import time
from contextlib import contextmanager

import numpy as np
import torch

from e0_lightning.serving import Server
from e0_lightning.types import PolicySpec

SPEC = PolicySpec(
    views={"front": 16, "wrist": 8},
    state={"joints": 2, "gripper": 1},
    action_dim=3,
    control_mode="scripted",
    horizon=4,
)


class ScriptedActor:
    """Returns the first joint, the mean of the front image and the step of the chunk."""

    def __init__(self, seconds=0.0, spec=SPEC):
        self.seconds = seconds
        self.spec = spec
        self.batches = []
        self.instructions = []
        self.views = {}

    def act(self, observation):
        size = len(observation["state"])
        self.batches.append(size)
        self.instructions += observation["instruction"]
        self.views = observation["images"]
        assert all(image.dtype == torch.uint8 for image in observation["images"].values())
        if "fail" in observation["instruction"]:
            raise RuntimeError("scripted to fail")
        time.sleep(self.seconds)
        chunk = torch.zeros(size, self.spec.horizon, self.spec.action_dim)
        chunk[:, :, 0] = observation["state"][:, :1]
        view = next(iter(observation["images"].values()))
        chunk[:, :, 1] = view.float().mean(dim=(1, 2, 3))[:, None]
        chunk[:, :, 2] = torch.arange(self.spec.horizon)
        if "nan" in observation["instruction"]:
            chunk[observation["instruction"].index("nan")] = torch.nan
        return chunk


def observe(tag=0.0, shade=0, **changes):
    """An observation for the plain key map, identified by its first joint and its shade."""
    return {
        "images": {
            "front": np.full((16, 16, 3), shade, np.uint8),
            "wrist": np.zeros((8, 8, 3), np.uint8),
        },
        "state": {"joints": np.array([tag, 0.0]), "gripper": np.array([1.0])},
        "prompt": "push",
        **changes,
    }


class RunningServer:
    """A server in a thread, with its port."""

    def __init__(self, actor, **settings):
        self.actor = actor
        self.settings = settings
        self.port = None
        self.error = None
        self.server = None
        self._opened = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self._opened.wait(20)
        if self.error is not None:
            raise self.error

    def _run(self):
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._opened.set()

    async def _serve(self):
        self.loop = asyncio.get_running_loop()
        self.server = Server(self.actor, **self.settings)

        def on_open(port):
            self.port = port
            # Tests count requests of clients, not of the warm-up.
            self.actor.batches.clear()
            self.actor.instructions.clear()
            self._opened.set()

        await self.server.run("127.0.0.1", 0, on_open)

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    def stop(self):
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def running(actor=None, **settings):
    server = RunningServer(actor or ScriptedActor(), **settings)
    try:
        yield server
    finally:
        server.stop()
