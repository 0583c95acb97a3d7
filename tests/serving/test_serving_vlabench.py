"""A policy trained on VLABench's demonstrations, with requests of VLABench's openpi client."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from scripted_server import running

from e0_lightning.cli import run
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.policies.checkpoint import load_policy
from vlabench_recording import BASE, record

openpi = pytest.importorskip(
    "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
)
transform = pytest.importorskip("scipy.spatial.transform", reason="scipy is not installed")

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

STEP = 9  # the gripper is closed at this step


class RecordingActor:
    """Keeps the last observation and actions of a policy."""

    def __init__(self, policy):
        self.policy, self.spec = policy, policy.spec
        self.batches, self.instructions = [], []

    def act(self, observation):
        self.observation, self.actions = observation, self.policy.act(observation)
        return self.actions


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return record(tmp_path_factory.mktemp("made") / "select_fruit" / "data_0.hdf5")


@pytest.fixture(params=["two cameras", "three cameras"])
def policy(request, demo, tmp_path):
    views = "[front,wrist]" if request.param == "two cameras" else "[front,wrist,right]"
    trained = run(
        [
            "fit",
            f"--config={EXPERIMENTS / 'vlabench.yaml'}",
            "--trainer.max_steps=1",
            "--trainer.accelerator=cpu",
            "--trainer.callbacks=null",
            "--trainer.logger=false",
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--data.demos=[{demo}]",
            f"--data.views={views}",
            "--data.batch_size=2",
            "--data.num_workers=0",
            "--data.val_fraction=0",
        ]
    )
    trained.trainer.save_checkpoint(tmp_path / "last.ckpt")
    return load_policy(tmp_path / "last.ckpt")


def client_request(demo, step, has_second_image):
    """VLABench's evaluation/model/policy/openpi.py, and its fork's second image."""
    with h5py.File(demo) as file:
        observation = next(iter(file["data"].values()))["observation"]
        right, _, front, wrist = observation["rgb"][step]
        pose = observation["ee_state"][step].astype(np.float64)
    angles = transform.Rotation.from_quat(pose[[4, 5, 6, 3]]).as_euler("xyz")
    message = {
        "observation/image": front,
        "observation/wrist_image": wrist,
        "observation/state": np.concatenate([pose[:3] - BASE, angles, pose[-1:]]),
        "prompt": "Pick the apple",
    }
    return {**message, "observation/second_image": right} if has_second_image else message


def test_requests_give_the_observations_of_the_demonstrations(demo, policy):
    actor = RecordingActor(policy)
    views = list(policy.spec.views)
    with running(actor, key_map="vlabench") as server:
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
        actions = client.infer(client_request(demo, STEP, "right" in views))["actions"]
        client._ws.close()
    file = open_demos(str(demo), views, list(policy.spec.state))
    name = file.demos()[0].name
    assert list(actor.observation["images"]) == views
    for view, pixels in file.images(name, STEP, STEP + 1).items():
        received = actor.observation["images"][view].permute(0, 2, 3, 1)
        np.testing.assert_array_equal(received, pixels)
    state = file.states(name, STEP, STEP + 1)
    assert state[0, 6] == 0
    np.testing.assert_allclose(actor.observation["state"], state, atol=2e-6)
    assert actor.observation["instruction"] == [file.instruction(name)]
    np.testing.assert_array_equal(actions, actor.actions[0])
    assert actions.shape == (12, 7)
    # Relative actions are absolute again, with angles wrapped to [-pi, pi].
    rotation = np.abs(actions[:, 3:6] - state[:, 3:6])
    assert np.minimum(rotation, 2 * np.pi - rotation).max() < 0.5
    assert np.abs(actions[:, 3:6]).max() <= np.pi + 1e-6
    assert np.abs(actions[:, :3] - state[:, :3]).max() < 0.2
