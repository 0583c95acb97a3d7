"""vla-eval's LIBERO benchmark: against the server and in one process."""

import numpy as np
import pytest
import torch
from scripted_server import running

from e0_lightning.data.formats.libero import CONTROL_MODE
from e0_lightning.envs.libero import LiberoEnvironment
from e0_lightning.envs.libero_tasks import tasks
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.serving import model_server
from e0_lightning.types import PolicySpec

pytest.importorskip("vla_eval", reason="vla-eval is not installed")

SPEC = PolicySpec(
    views={"agentview": 256, "eye_in_hand": 256},
    state={"ee_pos": 3, "ee_ori": 3, "gripper_states": 2},
    action_dim=7,
    control_mode=CONTROL_MODE,
    horizon=6,
)


class LowerThenClose:
    """Lowers the open gripper in the first chunk, closes it in the next; keeps observations."""

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
def first_observation(libero_assets):
    """The first observation of the same episode in the package's LIBERO environment."""
    environment = LiberoEnvironment(
        tasks("libero_object")[0], SPEC, offscreen(), libero_assets.path
    )
    observation = environment.reset(0)
    environment.close()
    return observation


@pytest.fixture
def options(first_observation, tmp_path, monkeypatch):
    """Options of vla-eval for one episode of three chunks."""
    monkeypatch.setattr(torch, "load", torch.load)  # the benchmark replaces it without restoring it
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


def run_over_socket(actor, options):
    from vla_eval.api import run

    with running(actor, key_map="libero") as server:
        return run(server_url=f"{server.url}/vla-eval", **options)


def run_in_process(actor, options):
    from vla_eval.api import evaluate

    return evaluate(model_server(actor, key_map="libero"), **options)


@pytest.mark.parametrize("run", [run_over_socket, run_in_process])
def test_observations_of_vla_evals_libero_equal_our_own(run, first_observation, options):
    actor = LowerThenClose()
    results = run(actor, options)
    episode = results[0]["tasks"][0]["episodes"][0]
    assert "failure_reason" not in episode
    assert episode["steps"] == 2 * SPEC.horizon + 1
    start, lowered, closed = actor.batches
    assert actor.instructions == [first_observation.instruction] * 3
    for view, image in first_observation.images.items():
        received = start["images"][view][0].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(received - image).mean() < 0.5
    np.testing.assert_allclose(start["state"][0], first_observation.state, atol=1e-5)
    height, finger = 2, 6
    assert lowered["state"][0, height] < start["state"][0, height] - 0.02
    assert lowered["state"][0, finger] > 0.035
    assert closed["state"][0, finger] < 0.025
