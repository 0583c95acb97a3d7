"""ManiSkill episodes over the socket equal those in one process."""

import json

import h5py
import pytest
import torch
from maniskill_over_socket import run_in_process, run_over_socket

from e0_lightning.types import PolicySpec

N_ACTION_STEPS = 8


class NearestDemonstration:
    """Returns the actions that followed the most similar state of the demonstrations."""

    def __init__(self, demos):
        self.qpos = torch.cat([torch.from_numpy(demo["obs/agent/qpos"][:-1]) for demo in demos])
        actions = [torch.from_numpy(demo["actions"][()]) for demo in demos]
        padded = [torch.cat([each, each[-1:].expand(N_ACTION_STEPS, -1)]) for each in actions]
        self.chunks = torch.cat(
            [each.unfold(0, N_ACTION_STEPS, 1)[:-1].transpose(1, 2) for each in padded]
        )
        self.spec = PolicySpec({"base_camera": 128}, {"qpos": 9}, 8, "pd_joint_pos", N_ACTION_STEPS)
        self.batches, self.instructions = [], []

    def act(self, observation):
        return self.chunks[torch.cdist(observation["state"], self.qpos).argmin(dim=1)]


@pytest.fixture
def demonstrated(demos):
    """An actor that follows the demonstrations, and their seeds."""
    entries = json.loads(demos.with_suffix(".json").read_text())["episodes"]
    with h5py.File(demos) as file:
        actor = NearestDemonstration([file[f"traj_{entry['episode_id']}"] for entry in entries])
    return actor, [entry["episode_seed"] for entry in entries]


@pytest.mark.simulator
def test_episodes_over_the_socket_equal_those_in_one_process(demonstrated):
    pytest.importorskip(
        "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
    )
    actor, seeds = demonstrated
    seeds = [*seeds, seeds[0] + 5]  # the last one is not demonstrated
    results = run_over_socket(actor, "PushCube-v1", seeds, N_ACTION_STEPS)
    assert results == run_in_process(actor, "PushCube-v1", seeds, N_ACTION_STEPS)
    assert [success for success, _ in results[:2]] == [True, True]
