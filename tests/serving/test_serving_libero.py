"""vla-eval's own LIBERO, played against our server and within one process."""

import numpy as np
import pytest
import torch
from scripted_server import running

from e0_lightning.data.formats.libero import CONTROL_MODE
from e0_lightning.envs.libero import LiberoEnvironment, tasks
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.serving import model_server
from e0_lightning.types import PolicySpec

pytest.importorskip("vla_eval", reason="no vla-eval")

SPEC = PolicySpec(
    views={"agentview": 256, "eye_in_hand": 256},
    state={"ee_pos": 3, "ee_ori": 3, "gripper_states": 2},
    action_dim=7,
    control_mode=CONTROL_MODE,
    horizon=6,
)


class Reaching:
    """Lowers the open hand in its first chunk, shuts it in the next; keeps what it is shown."""

    spec = SPEC

    def __init__(self):
        self.batches, self.instructions = [], []

    def act(self, observation):
        self.batches.append(observation)
        self.instructions += observation["instruction"]
        chunk = torch.zeros(len(observation["state"]), self.spec.horizon, 7)
        first = len(self.batches) == 1
        chunk[..., 2], chunk[..., 6] = (-1, -1) if first else (0, 1)
        return chunk


@pytest.fixture(scope="module")
def ours(libero_assets):
    """What our own environment shows at the start of the same episode."""
    environment = LiberoEnvironment(
        tasks("libero_object")[0], SPEC, offscreen(), libero_assets.path
    )
    view = environment.reset(0)
    environment.close()
    return view


@pytest.fixture
def run(ours, tmp_path, monkeypatch):
    """How to play an episode that needs a third chunk."""
    monkeypatch.setattr(torch, "load", torch.load)  # the benchmark replaces it for good
    benchmark = {
        "benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
        "params": {"suite": "libero_object"},
        "max_tasks": 1,
        "episodes_per_task": 1,
        "max_steps": 2 * SPEC.horizon + 1,
        "mode": "sync",
    }
    return {
        "config": {"benchmarks": [benchmark]},
        "docker": False,
        "no_save": True,
        "output_dir": tmp_path,
    }


def served(actor, run):
    from vla_eval.api import run as play

    with running(actor, key_map="libero") as server:
        return play(server_url=f"{server.url}/vla-eval", **run)


def within(actor, run):
    from vla_eval.api import evaluate

    return evaluate(model_server(actor, key_map="libero"), **run)


@pytest.mark.parametrize("way", [served, within])
def test_an_episode_of_vla_evals_libero_is_played_as_our_own(way, ours, run):
    actor = Reaching()
    results = way(actor, run)
    episode = results[0]["tasks"][0]["episodes"][0]
    assert "failure_reason" not in episode
    assert episode["steps"] == 2 * SPEC.horizon + 1
    start, lowered, shut = actor.batches
    assert actor.instructions == [ours.instruction] * 3
    for view, image in ours.images.items():
        shown = start["images"][view][0].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(shown - image).mean() < 0.5
    np.testing.assert_allclose(start["state"][0], ours.state, atol=1e-5)
    height, finger = 2, 6
    assert lowered["state"][0, height] < start["state"][0, height] - 0.02
    assert lowered["state"][0, finger] > 0.035
    assert shut["state"][0, finger] < 0.025
