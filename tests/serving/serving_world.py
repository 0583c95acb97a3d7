"""A scripted actor whose answers tell which observation they belong to, and a server around it."""

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


class Teller:
    """Answers each observation with its first joint, its front image's mean and its step."""

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
            raise RuntimeError("told to fail")
        time.sleep(self.seconds)
        chunk = torch.zeros(size, self.spec.horizon, self.spec.action_dim)
        chunk[:, :, 0] = observation["state"][:, :1]
        view = next(iter(observation["images"].values()))
        chunk[:, :, 1] = view.float().mean(dim=(1, 2, 3))[:, None]
        chunk[:, :, 2] = torch.arange(self.spec.horizon)
        if "nan" in observation["instruction"]:
            chunk[observation["instruction"].index("nan")] = torch.nan
        return chunk


def observe(tag=0.0, shade=0, **others):
    """An observation in the plain layout, told apart by its first joint and its shade."""
    return {
        "images": {
            "front": np.full((16, 16, 3), shade, np.uint8),
            "wrist": np.zeros((8, 8, 3), np.uint8),
        },
        "state": {"joints": np.array([tag, 0.0]), "gripper": np.array([1.0])},
        "prompt": "push",
        **others,
    }


class Running:
    """A server in a thread, with its port."""

    def __init__(self, actor, **settings):
        self.actor = actor
        self.settings = settings
        self.projection = None
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

        def opened(port):
            self.projection = port
            # The warm-up is not what tests ask about.
            self.actor.batches.clear()
            self.actor.instructions.clear()
            self._opened.set()

        await self.server.run("127.0.0.1", 0, opened)

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.projection}"

    def stop(self):
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.server.stop)
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def running(actor=None, **settings):
    server = Running(actor or Teller(), **settings)
    try:
        yield server
    finally:
        server.stop()
