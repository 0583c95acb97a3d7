"""Files of a layout that nobody has seen before, read by a key map of a few lines."""

import pickle

import h5py
import numpy as np
import pytest

from e0_lightning.cli import e0
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.base import DemoReader
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.formats.mapped import MappedReader
from e0_lightning.data.sources import DemoSource, open_sources
from e0_lightning.key_map import load_key_map, shipped_names
from e0_lightning.types import ViewSize
from recorders import RED, encode_jpeg, make_frames

KEY_MAP = """
# A laboratory's own recorder.
images: {"*": cams/*/jpg}
state: {arm: "robot[0:6]", gripper: "robot[6:7]"}
actions: {arm: cmd/arm, gripper: cmd/gripper}
instruction: attrs/meta/task/text
intrinsics: {front: cams/front/K}
control_mode: joint_position
rate: 30
file:
  demos: runs/run_*
  color: bgr
  flips: {wrist: both}
  inverted: [gripper]
  keep: cmd/enabled
  success: attrs/ok
"""


@pytest.fixture
def key_map(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(KEY_MAP)
    return str(path)


@pytest.fixture
def recorded(tmp_path):
    """The file and what was recorded in each run; run_2 failed."""
    rng, runs = np.random.default_rng(0), {}
    path = tmp_path / "recording.h5"
    with h5py.File(path, "w") as file:
        for number in (1, 2, 10):
            name, steps = f"runs/run_{number}", 8
            run = runs[name] = {
                "robot": rng.random((steps, 9)),
                "cmd/arm": rng.normal(size=(steps, 6)),
                "cmd/gripper": rng.random(steps),
                "cmd/enabled": np.array([0, 1, 1, 1, 0, 1, 1, 1]),
                "cams/front/K": np.diag([50.0, 50, 1]),
            }
            for key, values in run.items():
                file[f"{name}/{key}"] = values
            for view in ("front", "wrist"):
                frames = run[view] = make_frames(rng, steps)
                stored = frames if view == "front" else frames[:, ::-1, ::-1]
                rows = file.create_dataset(
                    f"{name}/cams/{view}/jpg", (steps,), dtype=h5py.vlen_dtype(np.uint8)
                )
                for index, frame in enumerate(stored):
                    rows[index] = encode_jpeg(np.ascontiguousarray(frame))
            file[name].attrs["ok"] = number != 2
            file[name].attrs["meta"] = '{"task": {"text": "stack the cups"}, "operator": 3}'
    return str(path), runs


KEPT = [1, 2, 3, 5, 6, 7]


def test_parts_are_found_where_the_key_map_says(recorded, key_map):
    path, runs = recorded
    reader = open_demos(path, key_map=key_map)
    assert reader.lengths() == {"runs/run_1": 6, "runs/run_10": 6}
    assert reader.failed() == ["runs/run_2"]
    assert reader.spec.views == dict.fromkeys(("front", "wrist"), ViewSize(48, 64))
    assert reader.spec.state == {"arm": 6, "gripper": 1}
    assert (reader.spec.control_mode, reader.rate) == ("joint_position", 30)
    name = "runs/run_10"
    assert reader.instruction(name) == "stack the cups"
    np.testing.assert_array_equal(reader.intrinsics(name)["front"], np.diag([50, 50, 1]))
    run = runs[name]
    state = np.hstack([run["robot"][:, :6], 1 - run["robot"][:, 6:7]])[KEPT]
    np.testing.assert_allclose(reader.states(name, 0, 6), state, rtol=1e-6)
    actions = np.hstack([run["cmd/arm"], 1 - run["cmd/gripper"][:, None]])[KEPT]
    np.testing.assert_allclose(reader.actions(name, 0, 6), actions, rtol=1e-6)


def test_frames_are_upright_and_have_their_colors(recorded, key_map):
    path, runs = recorded
    reader = pickle.loads(pickle.dumps(open_demos(path, None, [], key_map=key_map)))
    images = reader.images("runs/run_1", 1, 5)
    for view, frames in images.items():
        assert np.abs(frames - runs["runs/run_1"][view][KEPT[1:5]].astype(int)).mean() < 3
        np.testing.assert_allclose(frames[:, 8, 8], np.tile(RED, (4, 1)), atol=8)


@pytest.mark.parametrize(("lag", "rows", "actions"), [(1, (0, 7), (1, 8)), (-1, (1, 8), (0, 7))])
def test_actions_lag_behind_observations(recorded, tmp_path, lag, rows, actions):
    path, runs = recorded
    own = tmp_path / "lagging.yaml"
    own.write_text(
        "state: {q: robot}\nactions: cmd/arm\n" + f"file: {{demos: runs/run_1, lag: {lag}}}\n"
    )
    reader = open_demos(path, [], key_map=str(own))
    run = runs["runs/run_1"]
    assert reader.lengths() == {"runs/run_1": 7}
    states, read = (f("runs/run_1", 0, 7) for f in (reader.states, reader.actions))
    np.testing.assert_array_equal(states, run["robot"][slice(*rows)].astype(np.float32))
    np.testing.assert_array_equal(read, run["cmd/arm"][slice(*actions)].astype(np.float32))


def test_an_entry_of_demos_names_its_key_map(recorded, key_map):
    source = DemoSource(recorded[0], key_map=key_map)
    demos = RobotDemos([source], ["wrist"], ["arm"], 2, num_workers=0, val_fraction=0)
    demos.setup("fit")
    assert demos.instructions == ["stack the cups"]
    assert len(demos.datasets[0]) == 12


def test_inspect_takes_a_key_map_or_a_reader(recorded, key_map, capsys):
    e0(["inspect", recorded[0], "--key-map", key_map])
    out = capsys.readouterr().out
    assert "2, without 1 failed ones: recording/runs/run_2" in out
    assert "30 Hz" in out
    assert "'stack the cups'" in out
    e0(["inspect", recorded[0], "--reader", f"{__name__}.OwnReader"])
    assert "open the lid" in capsys.readouterr().out


class OwnReader(DemoReader):
    """A reader of one's own, for what a key map cannot say."""

    control_mode = "joint_position"

    def lengths(self):
        return {name: len(run["robot"]) for name, run in self.file["runs"].items()}

    def read_actions(self, demo, start, stop):
        return self.file[f"runs/{demo}/cmd/arm"][start:stop] * 2

    def read_states(self, demo, start, stop):
        return {"arm": self.file[f"runs/{demo}/robot"][start:stop, :6]}

    def read_images(self, demo, start, stop):
        return {"front": self.frames(self.file[f"runs/{demo}/cams/front/jpg"], start, stop, "bgr")}

    def read_instruction(self, demo):
        return "open the lid"


WRONG = {
    "a data set": (
        ("cams/*/jpg", "cams/*/jpeg"),
        r"view 'front' at cams/front/jpeg .*cams/front/jpg",
    ),
    "an action": (("cmd/arm", "command/arm"), r"action part 'arm' at command/arm .*cmd/arm"),
    "numbers": (("[6:7]", "[6:10]"), r"robot: expected 10 numbers .*'gripper'.* got \(8, 9\)"),
    "groups": (("runs/run_*", "demos/demo_*"), r"demonstrations in groups demos/demo_\*"),
    "no actions": (("actions", "intrinsics"), "expected actions"),
    "a field": (("color", "colour"), "file: expected only fields among demos, .* got .*colour"),
    "a top field": (("rate", "fps"), r"mine.yaml: expected only fields among images, .*, fps,"),
    "YAML": (("file:", "file: ["), "mine.yaml: expected YAML"),
    "a group": (("cmd/arm", "cmd"), r"action part 'arm' at cmd .*got nothing"),
    "flags": (("cmd/enabled", "cams/front/K"), "a flag for each of the 8 actions, got 9"),
    "no flags": (("cmd/enabled", "cmd/enable"), r"flags at cmd/enable .* Nearest: cmd/enabled"),
    "success": (("attrs/ok", "attrs/okay"), r"flags at attrs/okay .* Nearest: attrs/ok"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_key_map_that_points_nowhere_names_what_is_near(recorded, tmp_path, kind):
    (old, new), message = WRONG[kind]
    wrong = tmp_path / "mine.yaml"
    wrong.write_text(KEY_MAP.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        _ = open_demos(recorded[0], ["front"], ["arm", "gripper"], key_map=str(wrong)).spec
    assert "mine.yaml" in str(error.value)


def test_unknown_files_are_refused_with_what_to_write(recorded):
    with pytest.raises(ValueError, match=r"got runs at the top .*key_map: mine.yaml"):
        open_demos(recorded[0])
    for reader, key_map in ((OwnReader, "act"), (MappedReader, None)):
        with pytest.raises(ValueError, match="derived from MappedReader, and only with them"):
            open_demos(recorded[0], reader=reader, key_map=key_map)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_key_maps_are_short(name):
    key_map = load_key_map(name)
    assert key_map.name == name
    assert key_map.control_mode or not key_map.actions


def test_a_reader_derived_from_mapped_reader_takes_a_key_map(recorded, key_map):
    class Doubled(MappedReader):
        def read_actions(self, demo, start, stop):
            return super().read_actions(demo, start, stop) * 2

    source = DemoSource(recorded[0], reader=Doubled, key_map=key_map)
    ((_, reader),), _ = open_sources([source], [], ["arm"])
    doubled = reader.actions("runs/run_1", 0, 1)
    np.testing.assert_allclose(
        doubled[0, :6], 2 * recorded[1]["runs/run_1"]["cmd/arm"][1], rtol=1e-6
    )
