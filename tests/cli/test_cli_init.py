"""Configs written for the files of five recorders train with nothing else said."""

from pathlib import Path

import pytest
import yaml

from e0_lightning.cli.e0_cli import e0
from e0_lightning.cli.lightning_cli import run
from e0_lightning.inspection.inspect import inspect
from lab_recording import write_lab
from recorders import write_act
from vlabench_recording import record

DATA = Path(__file__).parents[1] / "data"
ROBOMIMIC = DATA / "robomimic" / "lift.hdf5"


def init(path, out, *options) -> dict:
    """Write a config and read it."""
    e0(["init", str(path), "--out", str(out), *options])
    assert len(out.read_text().splitlines()) <= 40
    return yaml.safe_load(out.read_text())


def propose(path, out, capsys) -> Path:
    """Save the key map that is printed for a file of unknown layout."""
    with pytest.raises(SystemExit):
        inspect([str(path)])
    printed = capsys.readouterr().out
    out.write_text(printed[printed.index("# Proposed") :])
    return out


@pytest.fixture
def recordings(tmp_path, demos, capsys):
    """Name of a recorder to a pattern of its files and further options."""
    (tmp_path / "act").mkdir()
    for number in range(2):
        write_act(tmp_path / "act" / f"episode_{number}.hdf5", steps=6, seed=number)
    vlabench = record(tmp_path / "select_fruit" / "data_0.hdf5", steps=(14, 14), side=64)
    lab = write_lab(tmp_path / "lab" / "runs.h5")
    key_map = propose(lab, tmp_path / "lab.yaml", capsys)
    return {
        "maniskill": (demos, []),
        "robomimic": (ROBOMIMIC, ["--instruction", "lift the cube"]),
        "vlabench": (vlabench, []),
        "act": (tmp_path / "act" / "episode_*.hdf5", ["--instruction", "pass the cube"]),
        "unknown": (lab, ["--key_map", str(key_map)]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maniskill", "robomimic", "vlabench", "act", "unknown"])
def test_a_written_config_trains(name, recordings, tmp_path):
    path, options = recordings[name]
    out = tmp_path / "task.yaml"
    init(path, out, *options)
    words = ["fit", f"--config={out}", "--trainer.max_steps=2"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    few = ["--data.batch_size=2", "--data.num_workers=0", "--trainer.limit_val_batches=1"]
    ended = run([*words, *quiet, *few, f"--trainer.default_root_dir={tmp_path / 'runs'}"])
    assert ended.trainer.global_step == 2


def test_joint_targets_are_relative_and_velocities_are_left_out(demos, tmp_path):
    config = init(demos, tmp_path / "task.yaml")
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    joints = list(range(7))
    assert model["actions"]["relative"] == {"actions": joints, "state": {"qpos": joints}}
    assert (data["state"], data["horizon"]) == (["qpos", "tcp_pose"], 20)


def test_rotations_are_relative_by_composition(tmp_path):
    path = record(tmp_path / "select_fruit" / "data_0.hdf5", steps=(40, 40), side=32)
    config = init(path, tmp_path / "task.yaml")
    relative = config["model"]["init_args"]["actions"]["relative"]
    assert relative["actions"] == [0, 1, 2]
    (rotation,) = relative["rotations"]
    assert (rotation["actions"], rotation["representation"]) == ([3, 4, 5], "euler_xyz")


def test_large_frames_are_made_small(tmp_path):
    write_act(tmp_path / "episode_0.hdf5")
    config = init(tmp_path / "*.hdf5", tmp_path / "task.yaml", "--instruction", "go")
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    assert data["views"] == {"top": {"height": 96, "width": 128}}
    assert model["encoder"]["vision"]["size"] == [96, 128]
    assert (data["state"], data["val_fraction"], data["horizon"]) == (["qpos"], 0, 6)


def test_an_instruction_is_asked_for_where_files_have_none(tmp_path):
    with pytest.raises(SystemExit, match=r"got none in the files. Give one: --instruction"):
        e0(["init", str(ROBOMIMIC), "--out", str(tmp_path / "task.yaml")])


def test_an_unknown_layout_and_an_existing_config_are_refused(tmp_path):
    lab = write_lab(tmp_path / "runs.h5")
    with pytest.raises(SystemExit, match=r"its layout is not known. `e0 inspect .*` proposes"):
        e0(["init", lab, "--out", str(tmp_path / "task.yaml")])
    (tmp_path / "task.yaml").write_text("mine")
    with pytest.raises(SystemExit, match="exists already"):
        e0(["init", str(ROBOMIMIC), "--out", str(tmp_path / "task.yaml")])
