"""The same ManiSkill episodes through openpi's client and within one process.

As a script, ``python tests/serving/maniskill_over_socket.py --checkpoint last.ckpt --episodes 20``
prints what became of each seed of a trained policy either way, and ends with 1 if they differ.
"""

import zlib

import numpy as np
import torch
from scripted_server import running

from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.maniskill import MAX_STEPS, ManiSkillEnvironment
from e0_lightning.evaluation.rollout import Rollouts
from e0_lightning.serving import BatchingConfig


class Seeded:
    """Draws as the robot's state decides, so that noise is the same whichever way it is asked."""

    def __init__(self, actor):
        self.actor, self.spec = actor, actor.spec
        self.batches, self.instructions = [], []

    def act(self, observation):
        torch.manual_seed(zlib.crc32(observation["state"].cpu().numpy().tobytes()))
        return self.actor.act(observation)


def in_process(actor, task, seeds, n_action_steps):
    """Success and steps of each seed, as an evaluation plays them."""
    rollouts = Rollouts(ManiSkillEnvironment, num_envs=1, n_action_steps=n_action_steps)
    try:
        results = rollouts.play(actor, [EvalEpisode(task, seed, MAX_STEPS[task]) for seed in seeds])
    finally:
        rollouts.close()
    assert not any(result.error for result in results)
    return [(result.success, result.n_action_steps) for result in results]


def over_the_socket(actor, task, seeds, n_action_steps):
    """Success and steps of each seed, as a user of openpi's client plays them."""
    from openpi_client.action_chunk_broker import ActionChunkBroker
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    # One at a time, as the batch decides how a product of matrices is rounded.
    with running(actor, key_map="maniskill", batching=BatchingConfig(max_batch=1)) as server:
        client = WebsocketClientPolicy("127.0.0.1", server.port)
        broker, world = ActionChunkBroker(client, n_action_steps), _world(task, actor.spec)
        found = [_play(broker, world, task, seed, n_action_steps) for seed in seeds]
        world.close()
        client._ws.close()
    return found


def _play(broker, world, task, seed, n_action_steps):
    broker.reset()
    world.unwrapped._obs_mode = "none"  # a picture costs more than a step: draw those looked at
    world.reset(seed=seed)
    success, steps, seen = False, 0, {}
    while not success and steps < MAX_STEPS[task]:
        if steps % n_action_steps == 0:
            world.unwrapped._obs_mode = "rgb"
            seen = {**_as_arrays(world.unwrapped.get_obs()), "prompt": INSTRUCTIONS[task]}
            world.unwrapped._obs_mode = "none"
        info = world.step(broker.infer(seen)["actions"])[-1]
        success, steps = info["success"].item(), steps + 1
    return success, steps


def _world(task, spec):
    import gymnasium
    import mani_skill.envs  # noqa: F401  # names its tasks to gymnasium

    (side,) = set(spec.views.values())
    return gymnasium.make(
        task,
        obs_mode="rgb",
        control_mode=spec.control_mode,
        sensor_configs={"shader_pack": "default", "width": side, "height": side},
        max_episode_steps=MAX_STEPS[task],
    )


def _as_arrays(tree):
    if isinstance(tree, dict):
        return {key: _as_arrays(value) for key, value in tree.items()}
    return np.asarray(tree) if isinstance(tree, torch.Tensor) else tree


def main(
    checkpoint: str,
    task: str = "PushCube-v1",
    episodes: int = 20,
    first_seed: int = 100_000,
    n_action_steps: int = 8,
) -> None:
    """Play the same seeds over the socket and within one process.

    Args:
        checkpoint: Written by the trainer.
        task: ManiSkill's name of the task.
        episodes: Seeds, from `first_seed` on.
        first_seed: First seed.
        n_action_steps: Steps of a chunk that are carried out.
    """
    from e0_lightning import load_policy

    actor = Seeded(load_policy(checkpoint))
    seeds = range(first_seed, first_seed + episodes)
    ways = [play(actor, task, seeds, n_action_steps) for play in (in_process, over_the_socket)]
    for seed, here, there in zip(seeds, *ways, strict=True):
        print(f"{seed}: in process {here}, over the socket {there}{'' if here == there else ' !'}")
    rates = [sum(success for success, _ in way) for way in ways]
    print(f"success in process {rates[0]}, over the socket {rates[1]}, of {episodes}")
    raise SystemExit(ways[0] != ways[1])


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
