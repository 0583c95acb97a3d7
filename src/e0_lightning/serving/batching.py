"""Requests of many clients in one forward pass, in a thread, while the event loop goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch

from e0_lightning.serving.parser import ACTION_PREFIX, Floats, stack
from e0_lightning.serving.server_metrics import ServerMetrics
from e0_lightning.types import ActionSample, ActionSampler, Actor, Observation, PolicySpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchingConfig:
    """How much the server takes at once.

    Args:
        max_batch: Most requests in a forward pass; 1 turns batching off.
        max_wait: Longest wait for more requests once one has come, seconds.
        max_queue: Most requests waiting; further ones are told that the server is busy.
        max_frame: Largest frame of a client, bytes.
        grace: Longest wait for requests in flight on shutting down, seconds.
    """

    max_batch: int = 16
    max_wait: float = 0.005
    max_queue: int = 256
    max_frame: int = 32 * 2**20
    grace: float = 30.0

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_queue < 1 or self.max_frame < 1 or self.max_wait < 0:
            raise ValueError(
                f"Found {self}; max_batch, max_queue and max_frame from 1 and max_wait from 0 are "
                "wanted."
            )


_Choice = tuple[Floats, Floats | None]
"""A chunk ``(H, D)`` and its uncertainty ``(H,)``."""


class BusyError(Exception):
    """The queue is full; the client may come again."""


@dataclass(frozen=True)
class Answer:
    """A chunk and how it came about.

    Args:
        actions: ``(H, D)``, robot units.
        waited: Seconds in the queue.
        inferred: Seconds of the forward pass.
        batch: Requests in it.
        uncertainty: ``(H,)`` in [0, 1], as a :class:`~e0_lightning.types.ActionSample` has it; None where
            the policy has none.
    """

    actions: Floats
    waited: float
    inferred: float
    batch: int
    uncertainty: Floats | None = None


@dataclass(frozen=True)
class _Request:
    observation: Observation
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """A queue in front of an actor, first come, first served.

    A connection has one request in it at most, so none can crowd out another.

    Args:
        actor: Who answers.
        limits: Batch, wait and queue.
        meters: Where batches are counted.
    """

    def __init__(self, actor: Actor, limits: BatchingConfig, meters: ServerMetrics) -> None:
        self.actor = actor
        self.spec = actor.spec
        self.limits = limits
        self.meters = meters
        self.clients = 0
        self._queue: deque[_Request] = deque()
        self._arrival = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="act")

    def warm_up(self) -> None:
        """Act once alone and once in the largest batch, so that no client waits for a first time.

        Raises:
            ValueError: If the actor does not answer as its spec says.
        """
        for size in sorted({1, self.limits.max_batch}):
            try:
                _forward(self.actor, [_blank(self.spec)] * size, self.spec)
            except Exception as error:
                raise ValueError(
                    f"The policy does not answer a batch of {size} black images: {error}. Where "
                    "memory is short, lower limits.max_batch."
                ) from error

    async def act(self, observation: Observation) -> Answer:
        """Have one observation answered, together with those of others.

        Raises:
            BusyError: If the queue is full.
        """
        if len(self._queue) >= self.limits.max_queue:
            raise BusyError(
                f"busy: {len(self._queue)} requests are waiting and no more may "
                f"(max_queue {self.limits.max_queue}). Try again later."
            )
        request = _Request(observation, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self.meters.waiting.set(len(self._queue))
        self._arrival.set()
        return await request.answer

    async def run(self) -> None:
        """Answer batch after batch until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                batch = await self._gather()
                start = time.perf_counter()
                observations = [request.observation for request in batch]
                choices = await loop.run_in_executor(
                    self._worker, _act, self.actor, observations, self.spec
                )
                end = time.perf_counter()
                self.meters.batch.observe(len(batch))
                for request, choice in zip(batch, choices, strict=True):
                    if request.answer.done():  # its client has gone
                        continue
                    if isinstance(choice, Exception):
                        request.answer.set_exception(choice)
                    else:
                        actions, uncertainty = choice
                        times = start - request.since, end - start
                        answer = Answer(actions, *times, len(batch), uncertainty)
                        request.answer.set_result(answer)
        finally:
            self._worker.shutdown(wait=False)

    async def _gather(self) -> list[_Request]:
        """Wait for a first request, then for as many as may come in time."""
        while not self._queue:
            await self._next_arrival(None)
        until = self._queue[0].since + self.limits.max_wait
        # More than one from each client cannot come: a lone client never waits.
        while len(self._queue) < min(self.limits.max_batch, self.clients):
            left = until - time.perf_counter()
            if left <= 0:
                break
            with suppress(TimeoutError):
                await self._next_arrival(left)
        size = min(len(self._queue), self.limits.max_batch)
        batch = [self._queue.popleft() for _ in range(size)]
        self.meters.waiting.set(len(self._queue))
        return batch

    async def _next_arrival(self, timeout: float | None) -> None:
        self._arrival.clear()
        await asyncio.wait_for(self._arrival.wait(), timeout)


def _blank(spec: PolicySpec) -> Observation:
    return Observation(
        images={
            view: torch.zeros(1, 3, side, side, dtype=torch.uint8)
            for view, side in spec.views.items()
        },
        instruction=[""],
        state=torch.zeros(1, spec.state_dim),
    )


def sample_actions(actor: Actor, observation: Observation) -> ActionSample:
    """What an actor chooses, with its uncertainty where it has one."""
    return (
        actor.sample_actions(observation)
        if isinstance(actor, ActionSampler)
        else ActionSample(actor.act(observation))
    )


def _forward(actor: Actor, observations: list[Observation], spec: PolicySpec) -> list[_Choice]:
    """Chunk and uncertainty of each observation, of one pass, held to the spec."""
    actions, uncertainty = sample_actions(actor, stack(observations))
    chunks: Floats = actions.float().cpu().numpy()
    wanted = (len(observations), spec.horizon, spec.action_dim)
    if chunks.shape != wanted:
        raise RuntimeError(f"the policy answered {chunks.shape}, its spec says {wanted}")
    if uncertainty is None:
        return [(chunk, None) for chunk in chunks]
    return list(zip(chunks, uncertainty.float().cpu().numpy(), strict=True))


def _act(
    actor: Actor, observations: list[Observation], spec: PolicySpec
) -> list[_Choice | Exception]:
    """One forward pass; where it fails, each observation alone, so that one spoils no other's."""
    try:
        choices = _forward(actor, observations, spec)
    except Exception as error:
        if len(observations) == 1:
            if not isinstance(error, ValueError):  # else it is the client's own
                log.exception("The policy failed")
            return [error]
        return [answer for one in observations for answer in _act(actor, [one], spec)]
    return [
        _fault(choice[0], observation) or choice
        for choice, observation in zip(choices, observations, strict=True)
    ]


def _fault(chunk: Floats, observation: Observation) -> Exception | None:
    """What is wrong with a chunk, if anything."""
    if not np.isfinite(chunk).all():
        return RuntimeError("the policy's actions are not finite")
    tail = observation[ACTION_PREFIX][0].numpy() if ACTION_PREFIX in observation else chunk[:0]
    if not np.array_equal(chunk[: len(tail)], tail):
        return ValueError(
            f"{ACTION_PREFIX}: found {len(tail)} decided actions, wanted none: this policy answers "
            "with others and cannot continue a chunk. Leave the key out, or serve one that can."
        )
    return None
