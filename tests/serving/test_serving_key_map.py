"""One key map for both sides: a laboratory's files, and the robot that asks for actions."""

import h5py
import numpy as np
import pytest
import torch
from scripted_server import ScriptedActor, running

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.sources import DemoSource
from e0_lightning.types import ViewSize

openpi = pytest.importorskip(
    "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
)

KEY_MAP = """\
images: {top: [rgb/top, video/top]}
state: {arm: ["q[0:6]", "robot/q[0:6]"], gripper: ["q[6:7]", "robot/q[6:7]"]}
actions: command
instruction: [task, attrs/sentence]
control_mode: joint_position
rate: 20
file:
  demos: episode_*
client:
  chunk_length: [1, 2]
"""

SIZE = ViewSize(12, 16)


@pytest.fixture
def key_map(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text(KEY_MAP)
    return str(path)


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "lab.h5", "w") as file:
        for number in range(3):
            episode = file.create_group(f"episode_{number}")
            episode["command"] = rng.normal(size=(9, 7))
            episode["robot/q"] = rng.normal(size=(9, 7))
            episode["video/top"] = rng.integers(0, 256, (9, 48, 64, 3), np.uint8)
            episode.attrs["sentence"] = f"stack {number} cups"
    return tmp_path / "lab.h5"


class RecordingActor(ScriptedActor):
    def act(self, observation):
        self.observation = observation
        return super().act(observation)


def test_a_client_gives_the_observation_of_the_demonstrations(path, key_map):
    source = DemoSource(str(path), key_map=key_map)
    demos = RobotDemos([source], {"top": SIZE}, ["gripper", "arm"], 4, num_workers=0)
    demos.setup("fit")
    batch = demos.datasets[0][3]
    actor = RecordingActor(spec=demos.spec)
    with h5py.File(path) as file:
        episode, step = file[batch["demo"][0].split("/")[1]], int(batch["step"][0])
        message = {
            "rgb": {"top": episode["video/top"][step]},  # resized by the server
            "q": episode["robot/q"][step],
            "task": episode.attrs["sentence"],
        }
    with running(actor, key_map=key_map) as server:
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
        actions = client.infer(message)["actions"]
        metadata = client.get_server_metadata()["e0"]
        client._ws.close()
    observation = actor.observation
    assert torch.equal(observation["images"]["top"], batch["images"]["top"])
    assert torch.equal(observation["state"], batch["state"])
    assert observation["instruction"] == batch["instruction"]
    assert actions.shape == (2, 7)
    assert metadata["images"] == {"rgb/top": [12, 16, 3]}
    assert metadata["state"] == {"q": 7}


def test_the_key_map_has_at_most_20_lines(path, key_map):
    assert len(KEY_MAP.splitlines()) <= 20
    assert open_demos(str(path), key_map=key_map).lengths() == {
        "episode_0": 9,
        "episode_1": 9,
        "episode_2": 9,
    }
