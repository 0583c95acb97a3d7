"""A real episode, driven over the socket as it is within one process."""

import json

import h5py
import numpy as np
import pytest
import torch
from serving_world import running

from e0_lightning.simulation.maniskill import ManiSkillEnvironment
from e0_lightning.types import Contract

REPLAN, CAP = 8, 100


class Follower:
    """Looks up where a demonstration stood as the robot does now, and does as it went on."""

    def __init__(self, demo):
        self.qpos = torch.from_numpy(demo["obs/agent/qpos"][:-1])
        self.actions = torch.from_numpy(demo["actions"][()])
        self.contract = Contract({"base_camera": 128}, {"qpos": 9}, 8, "pd_joint_pos", REPLAN)
        self.batches, self.instructions = [], []

    def act(self, observation):
        nearest = torch.cdist(observation["state"], self.qpos).argmin(dim=1)
        steps = nearest[:, None] + torch.arange(REPLAN)
        return self.actions[steps.clamp(max=len(self.actions) - 1)]


@pytest.fixture
def episode(demos):
    entry = json.loads(demos.with_suffix(".json").read_text())["episodes"][0]
    with h5py.File(demos) as file:
        return Follower(file[f"traj_{entry['episode_id']}"]), entry["episode_seed"]


def in_process(actor, seed):
    environment = ManiSkillEnvironment("PushCube-v1", actor.contract)
    view, steps = environment.reset(seed), 0
    while True:
        state = torch.from_numpy(view.state)[None]
        chunk = actor.act({"images": {}, "instruction": [""], "state": state})[0].numpy()
        outcome = environment.run(chunk[: CAP - steps], False, None)
        steps, view = steps + outcome.steps, outcome.view
        if outcome.success or steps >= CAP:
            environment.close()
            return outcome.success, steps


def over_the_socket(policy, seed):
    import gymnasium
    import mani_skill.envs  # noqa: F401  # names its tasks to gymnasium

    world = gymnasium.make(
        "PushCube-v1", obs_mode="rgb", control_mode="pd_joint_pos", max_episode_steps=CAP
    )
    world.unwrapped._obs_mode = "none"  # a picture costs more than a step: draw those looked at
    world.reset(seed=seed)
    success, steps = False, 0
    while not success and steps < CAP:
        if steps % REPLAN == 0:
            world.unwrapped._obs_mode = "rgb"
            seen = {**_as_arrays(world.unwrapped.get_obs()), "prompt": "push the cube"}
            world.unwrapped._obs_mode = "none"
        info = world.step(policy.infer(seen)["actions"])[-1]
        success, steps = info["success"].item(), steps + 1
    world.close()
    return success, steps


def _as_arrays(tree):
    if isinstance(tree, dict):
        return {key: _as_arrays(value) for key, value in tree.items()}
    return np.asarray(tree) if isinstance(tree, torch.Tensor) else tree


@pytest.mark.simulator
def test_an_episode_over_the_socket_is_the_episode_within_one_process(episode):
    clients = pytest.importorskip("openpi_client.websocket_client_policy", reason="no client")
    from openpi_client.action_chunk_broker import ActionChunkBroker

    actor, seed = episode
    with running(actor, layout="maniskill") as server:
        client = clients.WebsocketClientPolicy("127.0.0.1", server.port)
        found = over_the_socket(ActionChunkBroker(client, REPLAN), seed)
        client._ws.close()
    assert found == in_process(actor, seed)
    assert found[0]
