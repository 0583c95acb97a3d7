"""`e0 benchmark droid`: openpi's DROID client in ManiSkill, with late responses and lost frames."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from e0_lightning.benchmarks.droid_client import DroidClient, DroidEpisode, PolicyClient
from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.droid_panda import CONTROL_PERIOD, DroidPanda
from e0_lightning.envs.maniskill import DEFAULT_MAX_STEPS, MAX_STEPS, check_task
from e0_lightning.metrics import wilson

HEADS = (
    "delay, ms",
    "dropped frames",
    "success",
    "95 % interval",
    "response p50, ms",
    "p95, ms",
    "missed deadlines",
    "of periods",
    "repeated frames",
    "episode, s",
)


def benchmark(
    host: str = "127.0.0.1",
    port: int = 8000,
    task: str = "PushCube-v1",
    num_episodes: int = 20,
    first_seed: int = 100_000,
    n_action_steps: int = 8,
    max_steps: int | None = None,
    delay_ms: list[float] | None = None,
    dropped_frames: list[float] | None = None,
) -> None:
    """Drive ManiSkill's Panda with openpi's DROID client, and count missed deadlines.

    A server must be running: `e0 serve --checkpoint CKPT --key-map droid`, or openpi's with a DROID
    policy. The robot loop is openpi's: it blocks while it waits for a chunk, and the robot holds
    its last target; see `e0_lightning.benchmarks.droid_client` for how time is treated.

    Args:
        host: Address of the server.
        port: Its port.
        task: ManiSkill's name of the task.
        num_episodes: Episodes of each condition, on the seeds from `first_seed` on.
        first_seed: First seed, as in `DroidEpisodes`.
        n_action_steps: Actions of a chunk that are executed before the next request.
        max_steps: Actions after which an episode is a failure; None for `DroidEpisodes`'.
        delay_ms: Injected delays of responses, milliseconds; 0, 50, 100 and 200 if not given.
        dropped_frames: Probabilities that a frame of a camera does not arrive; 0 if not given.

    Raises:
        ValueError: If no server responds, or its policy is not DROID's.
        ModuleNotFoundError: If ManiSkill or openpi-client is not installed.
    """
    check_task(task, INSTRUCTIONS)
    policy = connect(host, port)
    max_steps = max_steps or MAX_STEPS.get(task, DEFAULT_MAX_STEPS)
    seeds = range(first_seed, first_seed + num_episodes)
    print(f"| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}")
    with closing(DroidPanda(task)) as robot:
        for delay in delay_ms or [0.0, 50.0, 100.0, 200.0]:
            for probability in dropped_frames or [0.0]:
                late = LatePolicy(policy, delay / 1000)
                client = DroidClient(robot, late, INSTRUCTIONS[task], n_action_steps, probability)
                episodes = [client.run(seed, max_steps) for seed in seeds]
                print(table_row(delay, probability, episodes), flush=True)


@dataclass(frozen=True)
class LatePolicy:
    """A policy whose responses arrive late.

    Args:
        policy: Client of the policy server.
        delay: Seconds that are added to each response.
    """

    policy: PolicyClient
    delay: float

    def infer(self, obs: dict[str, Any]) -> Mapping[str, Any]:
        """The policy's response, after the delay."""
        time.sleep(self.delay)
        return self.policy.infer(obs)


def connect(host: str, port: int) -> PolicyClient:
    """Connect openpi's client to a server.

    Raises:
        ValueError: If no server responds.
        ModuleNotFoundError: If openpi-client is not installed.
    """
    try:
        from openpi_client.websocket_client_policy import WebsocketClientPolicy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"openpi-client is not installed ({error}): pip install 'e0-lightning[clients]'"
        ) from error
    try:
        client: PolicyClient = WebsocketClientPolicy(host, port)
    except ConnectionRefusedError as error:
        raise ValueError(
            f"expected a policy server at ws://{host}:{port}, got no connection. Start one: "
            "e0 serve --checkpoint … --key-map droid."
        ) from error
    return client


def table_row(delay: float, dropped_frames: float, episodes: Sequence[DroidEpisode]) -> str:
    """Results of one condition as a row under :data:`HEADS`, in Markdown."""
    successes = sum(episode.success for episode in episodes)
    interval = wilson(successes, len(episodes))
    responses = [seconds for episode in episodes for seconds in episode.response_seconds]
    p50, p95 = np.quantile(responses, [0.5, 0.95]) * 1000
    missed = sum(episode.missed_deadlines for episode in episodes)
    seconds = sum(episode.seconds for episode in episodes)
    cells = [
        f"{delay:g}",
        f"{dropped_frames:.0%}",
        f"{successes} of {len(episodes)}",
        f"{interval.low:.0%} – {interval.high:.0%}",
        f"{p50:.0f}",
        f"{p95:.0f}",
        f"{missed}",
        f"{missed * CONTROL_PERIOD / seconds:.0%}",
        f"{sum(episode.repeated_frames for episode in episodes)}",
        f"{seconds / len(episodes):.1f}",
    ]
    return f"| {' | '.join(cells)} |"
