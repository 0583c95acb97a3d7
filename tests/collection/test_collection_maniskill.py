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


def datasets(group):
    """Every dataset of an HDF5 group by its path."""
    paths = []
    group.visit(paths.append)
    return {path: group[path] for path in paths if isinstance(group[path], h5py.Dataset)}


def contents(path):
    with h5py.File(path) as file:
        return {name: dataset[()] for name, dataset in datasets(file).items()}


SCRIPT = """
from e0_lightning.collection.maniskill import collect

if __name__ == "__main__":
    collect("PushCube-v1", 30, {out!r}, workers=2)
"""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A collection that was killed after its first episodes: the file to be, and what was kept."""
    folder = tmp_path_factory.mktemp("collected")
    out = folder / "PushCube-v1.h5"
    script = folder / "run.py"
    script.write_text(SCRIPT.format(out=str(out)))
    process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    parts = folder / "PushCube-v1.h5.parts"
    deadline = time.monotonic() + 200
    while len(list(parts.glob("seed_*.json"))) < 2 and time.monotonic() < deadline:
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
    """The same collection, run again to its end."""
    out, kept = interrupted
    return collect("PushCube-v1", len(kept) + 1, out, workers=1)


@pytest.mark.simulator
def test_an_interruption_loses_no_finished_episode(interrupted, collected):
    _, kept = interrupted
    sidecar = json.loads(collected.with_suffix(".json").read_text())
    seeds = [episode["episode_seed"] for episode in sidecar["episodes"]]
    assert len(seeds) == len(kept) + 1
    whole = contents(collected)
    for name, part in kept.items():
        seed = int(name.removeprefix("seed_").removesuffix(".h5"))
        for dataset, values in part.items():
            there = whole[dataset.replace("traj_0", f"traj_{seeds.index(seed)}", 1)]
            np.testing.assert_array_equal(values, there)
    assert not collected.with_name("PushCube-v1.h5.parts").exists()


@pytest.mark.simulator
def test_the_file_has_the_layout_of_a_replay_by_maniskill(collected, demos):
    with h5py.File(collected) as ours, h5py.File(demos) as theirs:
        reference = theirs[min(theirs)]
        for trajectory in ours.values():
            for path, wanted in datasets(reference).items():
                found = trajectory[path]
                assert (found.dtype, found.compression) == (wanted.dtype, wanted.compression)
                assert found.shape[1:] == wanted.shape[1:]
                # As many more than there are actions: one observation, no flag.
                extra = len(wanted) - len(reference["actions"])
                assert len(found) - len(trajectory["actions"]) == extra


@pytest.mark.simulator
def test_maniskill_reads_its_own(collected):
    from mani_skill.trajectory.dataset import ManiSkillTrajectoryDataset

    dataset = ManiSkillTrajectoryDataset(str(collected), success_only=True)
    with h5py.File(collected) as file:
        assert len(dataset) == sum(len(file[name]["actions"]) for name in file)
    assert dataset[0]["obs"]["sensor_data"]["base_camera"]["rgb"].shape == (128, 128, 3)


@pytest.mark.simulator
def test_collecting_a_finished_file_again_does_nothing(collected, capsys):
    before = collected.stat().st_mtime_ns
    collect("PushCube-v1", 2, collected)
    assert "nothing to do" in capsys.readouterr().out
    assert collected.stat().st_mtime_ns == before
    assert not collected.with_name("PushCube-v1.h5.parts").exists()


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("task", "kwargs", "message"),
    [
        ("PickCube-v1", {}, "with task PushCube-v1, and PickCube-v1 is asked for"),
        ("PushCube-v1", {"control_mode": "pd_ee_delta_pose"}, "control mode pd_joint_pos, and"),
        ("PushCube-v1", {"image_size": 64}, "image size None, and 64 is asked for"),
    ],
    ids=["task", "control mode", "image size"],
)
def test_one_file_holds_one_kind_of_demonstration(collected, task, kwargs, message):
    with pytest.raises(ValueError, match=message):
        collect(task, 10, collected, **kwargs)


@pytest.mark.simulator
def test_control_mode_and_image_size_can_be_chosen(tmp_path):
    out = collect(
        "PushCube-v1", 1, tmp_path / "push.h5", control_mode="pd_ee_delta_pos", image_size=48
    )
    with h5py.File(out) as file:
        assert file["traj_0/actions"].shape[1] == 4
        assert file["traj_0/obs/sensor_data/base_camera/rgb"].shape[1:] == (48, 48, 3)
    [episode] = json.loads(out.with_suffix(".json").read_text())["episodes"]
    assert episode["control_mode"] == "pd_ee_delta_pos"
    assert episode["success"] is True


@pytest.mark.simulator
def test_a_control_mode_that_the_robot_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no control mode 'pd_magic'; it has pd_joint_delta_pos"):
        collect("PushCube-v1", 1, tmp_path / "push.h5", control_mode="pd_magic")


@pytest.mark.simulator
def test_a_task_without_a_planner_is_refused_with_those_that_have_one(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean PushCube-v1\?\nIt has one for: .*PlugCh"):
        collect("PushCub-v1", 1, tmp_path / "push.h5")


@pytest.mark.parametrize(
    ("installed", "error", "message"),
    [
        ({"mplib": "0.1.1", "numpy": "2.1.0", "mani_skill": "3.0.1"}, RuntimeError, r"'numpy<2'"),
        ({"mplib": "0.1.1", "numpy": "1.26.0"}, ModuleNotFoundError, r"e0-lightning\[maniskill\]"),
    ],
    ids=["NumPy 2", "no ManiSkill"],
)
def test_what_must_be_installed_is_said(tmp_path, monkeypatch, installed, error, message):
    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    with pytest.raises(error, match=message):
        collect("PushCube-v1", 1, tmp_path / "push.h5")


def test_no_episodes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ask for at least 1"):
        collect("PushCube-v1", 0, tmp_path / "push.h5")
