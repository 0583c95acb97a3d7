import importlib.metadata
import json
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from e0_lightning.collection.maniskill import collect
from e0_lightning.data.formats.maniskill import ManiSkillReader


def datasets(group):
    """Every dataset of an HDF5 group by its path."""
    paths = []
    group.visit(paths.append)
    return {path: group[path] for path in paths if isinstance(group[path], h5py.Dataset)}


def contents(path):
    with h5py.File(path) as file:
        return {name: dataset[()] for name, dataset in datasets(file).items() if "/" in name}


SCRIPT = """
from e0_lightning.collection.maniskill import collect

if __name__ == "__main__":
    collect("PushCube-v1", 30, {out!r}, workers=2)
"""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A collection killed after its first episodes: the output file, and the kept episodes."""
    folder = tmp_path_factory.mktemp("collected")
    out = folder / "PushCube-v1.h5"
    script = folder / "run.py"
    script.write_text(SCRIPT.format(out=str(out)))
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    parts = folder / "PushCube-v1.h5.parts"
    deadline = time.monotonic() + 200
    while len(list(parts.glob("seed_*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert not out.with_suffix(".json").exists()
    kept = {path.name: contents(path) for path in parts.glob("seed_*.h5")}
    assert len(kept) >= 2
    return out, kept


@pytest.fixture(scope="module")
def collected(interrupted):
    """The same collection, resumed and finished."""
    out, kept = interrupted
    return collect("PushCube-v1", len(kept) + 1, out, workers=1)


@pytest.mark.simulator
def test_interruption_loses_no_finished_episode(interrupted, collected):
    _, kept = interrupted
    sidecar = json.loads(collected.with_suffix(".json").read_text())
    seeds = [episode["episode_seed"] for episode in sidecar["episodes"]]
    assert len(seeds) == len(kept) + 1
    published = contents(collected)
    for name, part in kept.items():
        seed = int(name.removeprefix("seed_").removesuffix(".h5"))
        for dataset, values in part.items():
            name = dataset.replace("traj_0", f"traj_{seeds.index(seed)}", 1)
            np.testing.assert_array_equal(values, published[name])
    assert not collected.with_name("PushCube-v1.h5.parts").exists()


@pytest.mark.simulator
def test_collected_file_has_the_structure_of_a_replay_by_maniskill(collected, demos):
    with h5py.File(collected) as file, h5py.File(demos) as replay:
        reference = replay[min(replay)]
        for trajectory in file.values():
            for path, expected in datasets(reference).items():
                dataset = trajectory[path]
                assert (dataset.dtype, dataset.compression) == (
                    expected.dtype,
                    expected.compression,
                )
                assert dataset.shape[1:] == expected.shape[1:]
                # Observations are one more than actions, flags as many.
                extra = len(expected) - len(reference["actions"])
                assert len(dataset) - len(trajectory["actions"]) == extra


@pytest.mark.simulator
def test_every_dataset_has_checksums(collected):
    with h5py.File(collected) as file:
        assert all(dataset.fletcher32 for dataset in datasets(file).values())


@pytest.mark.simulator
def test_collected_file_is_read_by_maniskill(collected):
    from mani_skill.trajectory.dataset import ManiSkillTrajectoryDataset

    dataset = ManiSkillTrajectoryDataset(str(collected), success_only=True)
    with h5py.File(collected) as file:
        assert len(dataset) == sum(len(file[name]["actions"]) for name in file)
    assert dataset[0]["obs"]["sensor_data"]["base_camera"]["rgb"].shape == (128, 128, 3)


@pytest.mark.simulator
def test_repeated_collection_of_a_complete_file_does_nothing(collected, capsys):
    before = collected.stat().st_mtime_ns
    collect("PushCube-v1", 2, collected)
    assert "nothing to do" in capsys.readouterr().out
    assert collected.stat().st_mtime_ns == before
    assert not collected.with_name("PushCube-v1.h5.parts").exists()


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("task", "kwargs", "message"),
    [
        ("PickCube-v1", {}, "with task PickCube-v1, got PushCube-v1"),
        ("PushCube-v1", {"control_mode": "pd_ee_delta_pose"}, "pd_ee_delta_pose, got pd_joint_pos"),
        ("PushCube-v1", {"image_size": 64}, "image_size 64, got None"),
        ("PushCube-v1", {"depth": True}, "depth True, got False"),
    ],
    ids=["task", "control mode", "image size", "depth"],
)
def test_collected_file_is_not_extended_with_other_demonstrations(collected, task, kwargs, message):
    with pytest.raises(ValueError, match=message):
        collect(task, 10, collected, **kwargs)


@pytest.mark.simulator
def test_control_mode_image_size_and_depth_can_be_chosen(tmp_path):
    settings = {"control_mode": "pd_ee_delta_pos", "image_size": 48, "depth": True}
    out = collect("PushCube-v1", 1, tmp_path / "push.h5", **settings)
    reader = ManiSkillReader(str(out), views=["base_camera"])
    depth = reader.read_depth("traj_0", "base_camera", 0, 1)
    # From the robot to the floor behind it, metres.
    assert depth.shape == (1, 48, 48)
    assert 0.1 < depth.min() < np.median(depth) < 1 < depth.max() < 20
    with h5py.File(out) as file:
        assert file["traj_0/actions"].shape[1] == 4
        assert file["traj_0/obs/sensor_data/base_camera/rgb"].shape[1:] == (48, 48, 3)
    [episode] = json.loads(out.with_suffix(".json").read_text())["episodes"]
    assert episode["control_mode"] == "pd_ee_delta_pos"
    assert episode["success"] is True


@pytest.mark.simulator
def test_a_recording_of_states_is_read_without_views(tmp_path):
    out = collect("Detour-v1", 1, tmp_path / "detour.h5", images=False)
    reader = ManiSkillReader(str(out), views=[])
    (demo,) = reader.lengths()
    spec = reader.read_spec(demo)
    assert spec.views == {}
    assert spec.state == {
        "qpos": 9,
        "qvel": 9,
        "tcp_pose": 7,
        "goal_pos": 3,
        "obstacle_pos": 3,
    }
    assert reader.read_instruction(demo) == "move around the post to the goal"
    with h5py.File(out) as file:
        assert set(file["traj_0/obs"]) == {"agent", "extra"}
    with pytest.raises(ValueError, match="with images True, got False"):
        collect("Detour-v1", 2, out)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"image_size": 64}, "image_size: expected none without images, got 64"),
        ({"render_quality": "fast"}, "render_quality: expected default without images, got fast"),
    ],
    ids=["size", "quality"],
)
def test_settings_of_images_without_images_are_refused(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        collect("Detour-v1", 1, tmp_path / "detour.h5", images=False, **option)


@pytest.mark.simulator
def test_unknown_control_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of pd_joint_delta_pos, .*got 'pd_magic'"):
        collect("PushCube-v1", 1, tmp_path / "push.h5", control_mode="pd_magic")


@pytest.mark.simulator
def test_task_without_planner_is_refused_with_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of .*PlugCh.*Did you mean PushCube-v1\?"):
        collect("PushCub-v1", 1, tmp_path / "push.h5")


@pytest.mark.parametrize(
    ("installed", "error", "message"),
    [
        ({"mplib": "0.1.1", "numpy": "2.1.0", "mani_skill": "3.0.1"}, RuntimeError, r"'numpy<2'"),
        ({"mplib": "0.1.1", "numpy": "1.26.0"}, ModuleNotFoundError, r"e0-lightning\[maniskill\]"),
    ],
    ids=["NumPy 2", "no ManiSkill"],
)
def test_missing_or_incompatible_packages_are_named(
    tmp_path, monkeypatch, installed, error, message
):
    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    with pytest.raises(error, match=message):
        collect("PushCube-v1", 1, tmp_path / "push.h5")


def test_zero_episodes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_episodes: expected at least 1, got 0"):
        collect("PushCube-v1", 0, tmp_path / "push.h5")


@pytest.mark.simulator
def test_a_shard_attempts_its_own_seeds(tmp_path):
    out = collect("Detour-v1", 2, tmp_path / "detour.h5", images=False, workers=1, shard="2/2")
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert [episode["episode_seed"] for episode in sidecar["episodes"]] == [1, 3]
