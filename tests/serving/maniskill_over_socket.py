"""The same ManiSkill episodes through openpi's client and in one process.

As a script, ``python tests/serving/maniskill_over_socket.py --checkpoint last.ckpt`` prints the
result of each seed of a trained policy both ways, and exits with 1 if they differ.
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


class StateSeeded:
    """Seeds the noise of each observation by its state, so that both ways have equal noise."""

    def __init__(self, actor):
        self.actor, self.spec = actor, actor.spec
        self.batches, self.instructions = [], []

    def act(self, observation):
        seeds = [zlib.crc32(state.cpu().numpy().tobytes()) for state in observation["state"]]
        return self.actor.act({**observation, "noise_seed": seeds})


def run_in_process(actor, task, seeds, n_action_steps):
    """Success and steps of each seed, by the evaluation's rollouts."""
    rollouts = Rollouts(ManiSkillEnvironment, num_envs=1, n_action_steps=n_action_steps)
    try:
        results = rollouts.run(actor, [EvalEpisode(task, seed, MAX_STEPS[task]) for seed in seeds])
    finally:
        rollouts.close()
    assert not any(result.error for result in results)
    return [(result.success, result.steps) for result in results]


def run_over_socket(actor, task, seeds, n_action_steps):
    """Success and steps of each seed, through openpi's client."""
    from openpi_client.action_chunk_broker import ActionChunkBroker
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    # The rounding of a matrix product depends on the batch size.
    with running(actor, key_map="maniskill", batching=BatchingConfig(max_batch=1)) as server:
        client = WebsocketClientPolicy("127.0.0.1", server.port)
        broker, env = ActionChunkBroker(client, n_action_steps), _make_env(task, actor.spec)
        results = [_run_episode(broker, env, task, seed, n_action_steps) for seed in seeds]
        env.close()
        client._ws.close()
    return results


def _run_episode(broker, env, task, seed, n_action_steps):
    broker.reset()
    env.unwrapped._obs_mode = "none"  # render only the frames that the policy needs
    env.reset(seed=seed)
    success, steps, observation = False, 0, {}
    while not success and steps < MAX_STEPS[task]:
        if steps % n_action_steps == 0:
            env.unwrapped._obs_mode = "rgb"
            arrays = _to_arrays(env.unwrapped.get_obs())
            observation = {**arrays, "prompt": INSTRUCTIONS[task]}
            env.unwrapped._obs_mode = "none"
        info = env.step(broker.infer(observation)["actions"])[-1]
        success, steps = info["success"].item(), steps + 1
    return success, steps


def _make_env(task, spec):
    import gymnasium
    import mani_skill.envs  # noqa: F401  # registers its tasks

    ((height, width),) = {size.camera_size for size in spec.views.values()}
    return gymnasium.make(
        task,
        obs_mode="rgb",
        control_mode=spec.control_mode,
        sensor_configs={"shader_pack": "default", "width": width, "height": height},
        max_episode_steps=MAX_STEPS[task],
    )


def _to_arrays(tree):
    if isinstance(tree, dict):
        return {key: _to_arrays(value) for key, value in tree.items()}
    return np.asarray(tree) if isinstance(tree, torch.Tensor) else tree


def main(
    checkpoint: str,
    task: str = "PushCube-v1",
    num_episodes: int = 20,
    first_seed: int = 100_000,
    n_action_steps: int = 8,
) -> None:
    """Evaluate the same seeds over the socket and in one process.

    Args:
        checkpoint: Checkpoint of the trainer.
        task: ManiSkill's name of the task.
        num_episodes: Number of seeds, from `first_seed` on.
        first_seed: First seed.
        n_action_steps: Steps of a chunk that are executed.
    """
    from e0_lightning import load_policy

    actor = StateSeeded(load_policy(checkpoint))
    seeds = range(first_seed, first_seed + num_episodes)
    local, remote = (
        run(actor, task, seeds, n_action_steps) for run in (run_in_process, run_over_socket)
    )
    for seed, *pair in zip(seeds, local, remote, strict=True):
        mark = "" if pair[0] == pair[1] else " !"
        print(f"{seed}: in process {pair[0]}, over the socket {pair[1]}{mark}")
    rates = [sum(success for success, _ in results) for results in (local, remote)]
    print(f"successes in process {rates[0]}, over the socket {rates[1]}, of {num_episodes}")
    raise SystemExit(local != remote)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
