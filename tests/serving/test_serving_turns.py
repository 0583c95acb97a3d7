"""Turns in which transports of clients are read."""

import asyncio
import itertools

from e0_lightning.serving.connection import Turns


class Transport:
    def __init__(self, log, name, is_closing=False):
        self.log, self.name, self.closing = log, name, is_closing

    def pause_reading(self):
        self.log.append(f"{self.name} waits")

    def resume_reading(self):
        self.log.append(f"{self.name} reads")

    def is_closing(self):
        return self.closing


def test_transports_are_read_in_order_and_one_per_interval():
    async def take_turns():
        loop, log, times = asyncio.get_running_loop(), [], []
        turns = Turns(interval=0.05)
        for name in "abc":
            turns.wait(Transport(log, name), lambda: times.append(loop.time()))
        while len(times) < 3:
            await asyncio.sleep(0.01)
        return log, times

    log, times = asyncio.run(take_turns())
    assert log == ["a waits", "b waits", "c waits", "a reads", "b reads", "c reads"]
    # A timer may be early by the clock's resolution.
    assert all(later - earlier > 0.045 for earlier, later in itertools.pairwise(times))


def test_closed_transports_are_not_read():
    async def take_turns():
        log, done = [], asyncio.Event()
        turns = Turns(interval=0.001)
        turns.wait(Transport(log, "closed", is_closing=True), lambda: log.append("never"))
        turns.wait(Transport(log, "open"), done.set)
        await done.wait()
        return log

    assert asyncio.run(take_turns()) == ["closed waits", "open waits", "open reads"]
