"""Recorded demonstrations against DROID's format, and executed again."""

import h5py
import numpy as np
import pytest

from e0_lightning.collection import droid
from e0_lightning.collection.droid import FRAME_SIZE, DroidRecorder, collect
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.envs.droid_panda import DroidPanda
from e0_lightning.geometry import resize_frames
from recorders import write_droid

TASK, SEED = "PushCube-v1", 4
VIEWS = ["exterior_image_1_left", "wrist_image_left"]

pytestmark = pytest.mark.simulator


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A demonstration whose frames are rendered at its first two steps, others are black."""
    path = tmp_path_factory.mktemp("droid") / f"episode_{SEED}.h5"
    recorder = DroidRecorder(TASK)
    render, reads = recorder.panda.frames, iter(range(1000))
    black = dict.fromkeys(recorder.panda.views, np.zeros((360, 640, 3), np.uint8))
    recorder.panda.frames = lambda: render() if next(reads) < 2 else black
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(droid, "NOISE", 0.0)
        reason = recorder.demonstrate(SEED, path)
    recorder.close()
    assert reason == ""
    return path


@pytest.fixture
def panda():
    panda = DroidPanda(TASK)
    yield panda
    panda.close()


def test_data_sets_are_those_of_droids_converter(recorded, tmp_path):
    path, _ = write_droid(tmp_path, images=True)
    with h5py.File(path) as converted, h5py.File(recorded) as file:
        keys = []
        file.visititems(lambda key, item: keys.append((key, getattr(item, "shape", ())[1:])))
        for key, shape in keys:
            assert key in converted
            if "image/" not in key:
                assert shape == getattr(converted[key], "shape", ())[1:]
        assert set(file.attrs) == set(converted.attrs)


def test_files_are_detected_and_read_with_droids_key_map(recorded):
    reader = open_demos(str(recorded), VIEWS)
    assert (reader.format, reader.rate, reader.task) == ("droid", 15, recorded.parent.name)
    assert reader.instruction("demo") == "push the cube to the target region"
    assert reader.spec.state == {"joint_position": 7, "gripper_position": 1}
    assert (reader.spec.action_dim, reader.spec.control_mode) == (8, "joint_velocity")
    assert {view: size.camera_size for view, size in reader.spec.views.items()} == {
        "exterior_image_1_left": (180, 320),
        "wrist_image_left": (180, 320),
    }


def test_recorded_actions_solve_the_task_through_the_recorded_states(recorded, panda):
    reader = open_demos(str(recorded), VIEWS)
    steps = reader.lengths()["demo"]
    states, actions = (read("demo", 0, steps) for read in (reader.states, reader.actions))
    assert np.abs(actions[:, :7]).max() < 1  # no velocity was clipped
    panda.reset(SEED)
    solved = False
    for step in range(steps):
        observed = np.append(panda.joint_position, panda.gripper_position)
        np.testing.assert_array_equal(observed, states[step])
        if step < 2:
            for view, frame in panda.frames().items():
                expected = resize_frames(frame[None], FRAME_SIZE)[0]
                stored = reader.images("demo", step, step + 1)[view][0]
                # Another renderer may round differently.
                assert np.abs(expected.astype(int) - stored).mean() < 1
        panda.command(actions[step])
        solved = panda.advance()
    assert solved


def test_recorded_actions_are_without_the_noise_of_those_executed(tmp_path):
    recorder = DroidRecorder(TASK)
    black = dict.fromkeys(recorder.panda.views, np.zeros((360, 640, 3), np.uint8))
    command, executed = recorder.panda.command, []
    recorder.panda.frames = lambda: black
    recorder.panda.command = lambda action: (executed.append(action), command(action))
    reason = recorder.demonstrate(SEED, path := tmp_path / "episode.h5")
    recorder.close()
    assert reason == ""
    recorded = open_demos(str(path), VIEWS).actions("demo", 0, len(executed))
    noise = np.stack(executed) - recorded
    assert noise[:, :7].std() == pytest.approx(0.05, rel=0.1)
    assert (noise[:, 7] == 0).all()


def test_finished_episodes_are_kept_and_failed_seeds_skipped(tmp_path, monkeypatch):
    def demonstrate(self, seed, path):
        tried.append(seed)
        if seed % 2:
            return "odd"
        path.touch()
        return ""

    monkeypatch.setattr(DroidRecorder, "__init__", lambda self, task: None)
    monkeypatch.setattr(DroidRecorder, "close", lambda self: None)
    monkeypatch.setattr(DroidRecorder, "demonstrate", demonstrate)
    for number, expected in ((2, [0, 1, 2]), (3, [1, 3, 4]), (3, [])):
        tried = []
        collect(TASK, number, tmp_path)
        assert tried == expected
    assert len(list(tmp_path.iterdir())) == 3


def test_a_task_without_planner_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Did you mean PushCube-v1"):
        collect("PushCub-v1", 1, tmp_path)
