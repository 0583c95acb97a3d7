"""Dynamic batching: requests of many clients in one forward pass, in a thread of its own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch

from e0_lightning.random import seeded_generator
from e0_lightning.serving.limits import log
from e0_lightning.serving.parser import ACTION_PREFIX, stack
from e0_lightning.serving.server_metrics import ServerMetrics
from e0_lightning.serving.threads import DaemonThreads
from e0_lightning.types import (
    ActionSample,
    ActionSampler,
    Actor,
    History,
    Observation,
    PolicySpec,
)


@dataclass(frozen=True)
class BatchingConfig:
    """Dynamic batching.

    Args:
        max_batch: Most requests in a forward pass; 1 turns batching off.
        max_wait: Longest wait for more requests after the first one, seconds.
        max_queue: Most requests in the queue; further ones get a "busy" error.
    """

    max_batch: int = 16
    max_wait: float = 0.005
    max_queue: int = 256

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_queue < 1 or self.max_wait < 0:
            raise ValueError(
                "expected max_batch and max_queue of at least 1 and max_wait of at least 0, got "
                f"{self}."
            )


class BusyError(Exception):
    """The queue is full; the client may try again later."""


@dataclass(frozen=True)
class Timing:
    """Where the time of a request went.

    Args:
        queued: Seconds in the queue.
        inference: Seconds of the forward pass.
        batch_size: Requests in it.
    """

    queued: float
    inference: float
    batch_size: int


@dataclass(frozen=True)
class Response:
    """An action chunk for one request, ``(1, H, D)`` float32 on the CPU, and its timing."""

    sample: ActionSample
    timing: Timing


@dataclass(frozen=True)
class _Request:
    observation: Observation
    response: asyncio.Future[Response]
    arrival: float = field(default_factory=time.perf_counter)


class Batcher:
    """A first-in-first-out queue in front of an actor.

    A connection has at most one request in it, so that no client can fill it.

    Args:
        actor: The policy.
        config: Batch size, wait and queue length.
        metrics: Records batch sizes and the queue length.
    """

    def __init__(self, actor: Actor, config: BatchingConfig, metrics: ServerMetrics) -> None:
        self.actor = actor
        self.spec = actor.spec
        self.config = config
        self.metrics = metrics
        self.clients = 0
        self._queue: deque[_Request] = deque()
        self._arrival = asyncio.Event()
        self._thread = DaemonThreads(1, "inference")

    @property
    def is_busy(self) -> bool:
        """Whether a forward pass is running."""
        return self._thread.is_busy

    def warm_up(self) -> None:
        """Act once alone and once in the largest batch, so that no client waits for a first pass.

        Raises:
            ValueError: If the actor's weights or actions are not finite, or not as in its spec.
        """
        if isinstance(self.actor, torch.nn.Module):
            for name, value in self.actor.named_parameters():
                if not value.isfinite().all():
                    raise ValueError(
                        f"expected finite weights, got NaN or infinity in {name}. The training run "
                        "has diverged; serve an earlier checkpoint."
                    )
        observation = _random_observation(self.spec)
        for size in sorted({1, self.config.max_batch}):
            try:
                samples = _forward(self.actor, [observation] * size, self.spec)
            except Exception as error:
                raise ValueError(
                    f"The policy cannot act on a batch of {size} random images: {error}. If it "
                    "runs out of memory, lower batching.max_batch."
                ) from error
            for sample in samples:
                if (fault := _output_error(sample, observation)) is not None:
                    raise ValueError(
                        f"The policy cannot act on random images: {fault}. Its weights may be "
                        "damaged or from a diverged run; serve another checkpoint."
                    )

    async def sample(self, observation: Observation) -> Response:
        """Sample actions for one observation, batched with those of other clients.

        Raises:
            BusyError: If the queue is full.
        """
        if len(self._queue) >= self.config.max_queue:
            raise BusyError(
                f"busy: {len(self._queue)} requests are in the queue, the most allowed "
                "(batching.max_queue). Try again later."
            )
        request = _Request(observation, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self.metrics.queue.set(len(self._queue))
        self._arrival.set()
        try:
            return await request.response
        finally:
            del request  # an exception's traceback would keep it alive

    async def run(self) -> None:
        """Process batch after batch until cancelled."""
        try:
            while True:
                batch = await self._next_batch()
                start = time.perf_counter()
                observations = [request.observation for request in batch]
                samples = await self._thread.run(_sample, self.actor, observations, self.spec)
                end = time.perf_counter()
                self.metrics.batch.observe(len(batch))
                for request, sample in zip(batch, samples, strict=True):
                    if request.response.done():  # the client has disconnected
                        continue
                    if isinstance(sample, Exception):
                        request.response.set_exception(sample)
                    else:
                        timing = Timing(start - request.arrival, end - start, len(batch))
                        request.response.set_result(Response(sample, timing))
        finally:
            self._thread.close()

    async def _next_batch(self) -> list[_Request]:
        """Wait for a first request, then up to `max_wait` for more."""
        while not self._queue:
            await self._next_arrival(None)
        deadline = self._queue[0].arrival + self.config.max_wait
        # Each client has one request at most, so that a single client never waits.
        while len(self._queue) < min(self.config.max_batch, self.clients):
            remaining = deadline - time.perf_counter()
            if remaining <= 0:
                break
            with suppress(TimeoutError):
                await self._next_arrival(remaining)
        size = min(len(self._queue), self.config.max_batch)
        batch = [self._queue.popleft() for _ in range(size)]
        self.metrics.queue.set(len(self._queue))
        return batch

    async def _next_arrival(self, timeout: float | None) -> None:
        self._arrival.clear()
        await asyncio.wait_for(self._arrival.wait(), timeout)


def _random_observation(spec: PolicySpec) -> Observation:
    """Noise images, a state of zeros and a short instruction."""
    generator, steps = seeded_generator("warm-up"), spec.n_obs_steps
    clips = {
        view: torch.randint(
            256, (1, steps, 3, size.height, size.width), generator=generator, dtype=torch.uint8
        )
        for view, size in spec.views.items()
    }
    observation = Observation(
        images={view: clip[:, -1] for view, clip in clips.items()},
        instruction=["pick up the cube"],
        state=torch.zeros(1, spec.state_dim),
    )
    if steps > 1:
        observation["history"] = History(
            images={view: clip[:, :-1] for view, clip in clips.items()},
            state=torch.zeros(1, steps - 1, spec.state_dim),
        )
    return observation


def sample_actions(actor: Actor, observation: Observation) -> ActionSample:
    """Sample actions, with their uncertainty if the actor reports it."""
    return (
        actor.sample_actions(observation)
        if isinstance(actor, ActionSampler)
        else ActionSample(actor.act(observation))
    )


def _forward(actor: Actor, observations: list[Observation], spec: PolicySpec) -> list[ActionSample]:
    """One forward pass, split by observation and checked against the spec."""
    actions, uncertainty = sample_actions(actor, stack(observations))
    expected = (len(observations), spec.horizon, spec.action_dim)
    if tuple(actions.shape) != expected:
        raise RuntimeError(
            f"expected actions of shape {expected} by the policy's spec, got {tuple(actions.shape)}"
        )
    chunks = actions.detach().float().cpu().split(1)
    if uncertainty is None:
        return [ActionSample(chunk) for chunk in chunks]
    entropies = uncertainty.detach().float().cpu().split(1)
    return [ActionSample(*pair) for pair in zip(chunks, entropies, strict=True)]


def _sample(
    actor: Actor, observations: list[Observation], spec: PolicySpec
) -> list[ActionSample | Exception]:
    """One forward pass; if it fails, one for each observation, so that only the cause fails."""
    try:
        samples = _forward(actor, observations, spec)
    except Exception as error:
        if len(observations) == 1:
            if not isinstance(error, ValueError):  # ValueErrors are about the observation
                log.exception("The policy failed")
            return [error]
        return [result for each in observations for result in _sample(actor, [each], spec)]
    return [
        _output_error(sample, observation) or sample
        for sample, observation in zip(samples, observations, strict=True)
    ]


def _output_error(sample: ActionSample, observation: Observation) -> Exception | None:
    """An error if actions are not finite or do not start with the action prefix."""
    actions, uncertainty = sample
    if not actions.isfinite().all() or not (uncertainty is None or uncertainty.isfinite().all()):
        return RuntimeError("expected finite actions and uncertainty, got NaN or infinity")
    chunk = actions[0].numpy()
    prefix = observation["action_prefix"][0].numpy() if ACTION_PREFIX in observation else chunk[:0]
    if not np.array_equal(chunk[: len(prefix)], prefix):
        return ValueError(
            f"{ACTION_PREFIX}: expected none, got {len(prefix)} actions: this policy returns "
            "others and cannot continue a chunk. Leave the key out, or serve a policy that can."
        )
    return None
