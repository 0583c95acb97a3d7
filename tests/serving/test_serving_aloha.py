"""gym-aloha's own environment, driven through openpi's client."""

import numpy as np
import pytest
import torch
from scripted_server import running

from e0_lightning.collection.aloha_expert import AlohaExpert
from e0_lightning.envs.aloha import CONTROL_MODE, AlohaEnvironment
from e0_lightning.types import PolicySpec, ViewSize

TASK, SEED, STEPS = "AlohaTransferCube-v0", 3, 4
TOP = ViewSize(60, 80, crop=[120, 160, 240, 320], camera=(480, 640))


class Script:
    """Sends the same joint targets every time, and keeps what it observed."""

    spec = PolicySpec({"top": TOP}, {"qpos": 14}, 14, CONTROL_MODE, STEPS)

    def __init__(self, targets):
        self.targets = torch.from_numpy(np.float32(targets))
        self.observed, self.batches, self.instructions = [], [], []

    def act(self, observation):
        self.observed.append(observation)
        return self.targets.expand(len(observation["state"]), -1, -1)


@pytest.mark.simulator
def test_openpis_client_drives_gym_aloha_as_the_evaluation_does(aloha_backend):
    pytest.importorskip("openpi_client", reason="openpi-client is not installed")
    import gym_aloha  # noqa: F401  # registers its tasks
    import gymnasium
    from openpi_client.action_chunk_broker import ActionChunkBroker
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    expert = AlohaExpert(TASK)
    targets = expert.joint_targets(SEED)[40 : 40 + STEPS]
    expert.close()
    actor = Script(targets)
    env = gymnasium.make(f"gym_aloha/{TASK}", obs_type="pixels_agent_pos")
    with running(actor, key_map="aloha") as server:
        client = WebsocketClientPolicy("127.0.0.1", server.port)
        broker, (observation, _) = ActionChunkBroker(client, STEPS // 2), env.reset(seed=SEED)
        for _ in range(STEPS):
            frame = observation["pixels"]["top"].transpose(2, 0, 1)  # as openpi's clients send it
            message = {"images": {"top": frame}, "state": observation["agent_pos"], "prompt": "go"}
            observation, *_ = env.step(broker.infer(message)["actions"])
        client._ws.close()
    env.unwrapped._env.physics.free()
    environment = AlohaEnvironment(TASK, Script.spec, aloha_backend)
    executed = np.float32(targets)[: STEPS // 2]
    expected = [environment.reset(SEED), environment.run(executed, False, None).observation]
    environment.close()
    for served, local in zip(actor.observed[-2:], expected, strict=True):
        np.testing.assert_array_equal(
            served["images"]["top"][0].permute(1, 2, 0), local.images["top"]
        )
        np.testing.assert_array_equal(served["state"][0], local.state)
