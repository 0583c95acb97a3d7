"""Real episodes, driven over the socket as they are within one process."""

import json

import h5py
import pytest
import torch
from maniskill_over_socket import in_process, over_the_socket

from e0_lightning.types import PolicySpec

REPLAN = 8


class Follower:
    """Looks up where a demonstration stood as the robot does now, and does as it went on."""

    def __init__(self, demos):
        self.qpos = torch.cat([torch.from_numpy(demo["obs/agent/qpos"][:-1]) for demo in demos])
        # Past its end, a demonstration goes on with its last action.
        actions = [torch.from_numpy(demo["actions"][()]) for demo in demos]
        following = [torch.cat([each, each[-1:].expand(REPLAN, -1)]) for each in actions]
        self.chunks = torch.cat(
            [each.unfold(0, REPLAN, 1)[:-1].transpose(1, 2) for each in following]
        )
        self.spec = PolicySpec({"base_camera": 128}, {"qpos": 9}, 8, "pd_joint_pos", REPLAN)
        self.batches, self.instructions = [], []

    def act(self, observation):
        return self.chunks[torch.cdist(observation["state"], self.qpos).argmin(dim=1)]


@pytest.fixture
def demonstrated(demos):
    entries = json.loads(demos.with_suffix(".json").read_text())["episodes"]
    with h5py.File(demos) as file:
        actor = Follower([file[f"traj_{entry['episode_id']}"] for entry in entries])
    return actor, [entry["episode_seed"] for entry in entries]


@pytest.mark.simulator
def test_episodes_over_the_socket_are_the_episodes_within_one_process(demonstrated):
    pytest.importorskip("openpi_client.websocket_client_policy", reason="no client")
    actor, seeds = demonstrated
    strange = seeds[0] + 5  # no one showed how
    found = over_the_socket(actor, "PushCube-v1", [*seeds, strange], REPLAN)
    assert found == in_process(actor, "PushCube-v1", [*seeds, strange], REPLAN)
    assert [success for success, _ in found[:2]] == [True, True]
