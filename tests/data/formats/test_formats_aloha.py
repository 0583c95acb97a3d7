"""ALOHA's compressed episodes: Mobile ALOHA's, and those that RDT is fine-tuned on."""

import json
import warnings

import h5py
import numpy as np
import pytest

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.sources import DemoSource, open_sources
from recorders import RED, write_act, write_mobile_aloha

SENTENCES = {
    "instruction": "Close the glasses box.",
    "simplified_instruction": ["Close the box."],
    "expanded_instruction": ["Move the lid of the box down until it is closed."],
}


@pytest.fixture
def episode(tmp_path):
    path = tmp_path / "close_glasses_box" / "episode_5.hdf5"
    path.parent.mkdir()
    return str(path)


def test_frames_of_mobile_aloha_have_their_colors(episode):
    recorded = write_mobile_aloha(episode)
    reader = open_demos(episode, ["cam_high", "cam_right_wrist"], ["qpos"])
    assert (reader.format, reader.rate, reader.task) == ("mobile_aloha", 50, "close_glasses_box")
    assert reader.demos() == [("demo", 5, 1)]
    images = reader.images("demo", 1, 4)
    for view, frames in images.items():
        expected = recorded["images"][view][2:5].astype(int)  # observations are late by a step
        assert np.abs(frames - expected).mean() < 5
        np.testing.assert_allclose(frames[0, 40, 40], RED, atol=8)


def test_velocities_of_the_base_follow_the_joints_of_the_arms(episode):
    recorded = write_mobile_aloha(episode)
    reader = open_demos(episode, [], ["qpos"])
    expected = np.hstack([recorded["action"], recorded["base_action"]]).astype(np.float32)
    np.testing.assert_array_equal(reader.actions("demo", 0, 5), expected[:5])
    np.testing.assert_array_equal(reader.states("demo", 0, 5), np.float32(recorded["qpos"][1:]))


def test_compressed_episodes_without_a_base_have_14_actions(episode):
    write_mobile_aloha(episode, base=False)
    reader = open_demos(episode)
    assert (reader.format, reader.spec.action_dim) == ("aloha_jpeg", 14)
    assert set(reader.spec.state) == {"qpos", "qvel", "effort"}


def test_sentences_of_rdt_lie_beside_the_episodes(episode, tmp_path):
    recorded = write_mobile_aloha(episode)
    beside = tmp_path / "close_glasses_box" / "expanded_instruction_gpt-4-turbo.json"
    beside.write_text(json.dumps(SENTENCES))
    reader = open_demos(episode, ["cam_high"], ["qpos"])
    assert (reader.format, reader.instruction("demo")) == ("rdt", "Close the glasses box.")
    assert reader.lengths() == {"demo": 6}
    np.testing.assert_array_equal(reader.actions("demo", 0, 6), np.float32(recorded["action"]))
    np.testing.assert_allclose(reader.images("demo", 0, 1)["cam_high"][0, 40, 40], RED, atol=8)


def test_files_beside_that_are_no_demonstrations_are_left_out(tmp_path):
    names = ("episode_0.hdf5", "episode_1.hdf5", "mirror_episode_0.hdf5")
    for name in names:
        write_act(tmp_path / name, steps=2, sim=False)
    with h5py.File(tmp_path / "episode_0_features.hdf5", "w") as file:
        file["resnet"] = np.zeros((2, 512))
    source = DemoSource(str(tmp_path / "*.hdf5"), instruction="go")
    with pytest.warns(UserWarning, match="2 files are left out, .* key map aloha"):
        readers, _ = open_sources([source], [], ["qpos"])
    assert [reader.path for _, reader in readers] == [str(tmp_path / name) for name in names[:2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = DemoSource(str(tmp_path / "mirror_episode_0.hdf5"), instruction="go")
        assert len(open_sources([named], [], ["qpos"])[0]) == 1
