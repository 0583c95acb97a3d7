import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import h5py
import pytest
import torch

from e0_lightning import E0
from e0_lightning.cli import e0, run, serving
from e0_lightning.cli import e0_cli as verbs
from e0_lightning.cli import lightning_cli as training
from e0_lightning.policies.half_precision import HalfPrecision

BIN = Path(sys.executable).parent
QUIET = [
    "--trainer.fast_dev_run=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_any_lightning_module_runs_by_class_path(verb):
    boring = "lightning.pytorch.demos.boring_classes"
    names = [f"--model={boring}.BoringModel", f"--data={boring}.BoringDataModule"]
    ended = run([verb, *names, *QUIET])
    assert type(ended.model).__name__ == "BoringModel"
    assert ended.trainer.state.status == "finished"
    assert ended.trainer.global_step == (verb == "fit")


def test_a_module_that_brings_its_own_loaders_needs_no_data_module():
    model = "--model=lightning.pytorch.demos.boring_classes.BoringModel"
    assert run(["fit", model, *QUIET]).trainer.global_step == 1


def test_our_classes_go_by_their_bare_names(capsys):
    with pytest.raises(SystemExit):
        run(["fit", "--model.help", "E0"])
    assert "--model.token_per" in capsys.readouterr().out


def test_the_script_called_lightning_is_ours():
    answer = subprocess.run([BIN / "lightning", "fit", "--model.help=E0"], capture_output=True)
    assert b"token_per" in answer.stdout


@pytest.mark.parametrize(
    ("script", "work"), [(training.main, (training, "run")), (e0, (verbs, "_e0"))]
)
def test_scripts_find_classes_in_the_working_directory(script, work, tmp_path, monkeypatch):
    (tmp_path / "my_own_research.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = []
    monkeypatch.setattr(*work, lambda *_: found.append(find_spec("my_own_research")))
    monkeypatch.setattr(sys, "argv", ["script"])
    script()
    assert found[0].origin == str(tmp_path / "my_own_research.py")


def test_inspect_describes_a_file(demos, capsys):
    e0(["inspect", str(demos)])
    printed = capsys.readouterr().out
    assert "PushCube-v1" in printed
    assert "base_camera" in printed


def test_inspect_names_a_file_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        e0(["inspect", str(tmp_path / "nothing.h5")])
    assert "nothing.h5: no such file" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_there_is_named_without_a_traceback(tmp_path):
    with pytest.raises(SystemExit, match=r"e0: .*lost\.ckpt"):
        e0(["serve", "--checkpoint", str(tmp_path / "lost.ckpt")])


@pytest.mark.simulator
def test_our_advice_comes_without_a_traceback_and_others_errors_with_theirs(tmp_path, monkeypatch):
    sapien = pytest.importorskip("sapien", reason="no ManiSkill")
    words = ["collect", "maniskill", "--task=PushCube-v1", "--episodes=1"]
    words.append(f"--out={tmp_path / 'demos.h5'}")
    monkeypatch.setattr(sapien.render, "get_device_summary", lambda: "")
    with pytest.raises(SystemExit, match="e0: no Vulkan device to render with"):
        e0(words)
    monkeypatch.setattr(verbs, "_e0", lambda _: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        e0(words)


@pytest.mark.simulator
def test_collect_names_a_task_that_does_not_exist(tmp_path):
    command = ["collect", "maniskill", "--task=PushCubes-v1", "--episodes=1"]
    with pytest.raises(SystemExit, match=r"did you mean PushCube-v1"):
        e0([*command, f"--out={tmp_path / 'demos.h5'}"])


@pytest.fixture
def trained(demos, tmp_path):
    """Words for the main experiment on small data, with a checkpoint of it."""
    experiment = Path(__file__).parent.parent / "experiments" / "maniskill.yaml"
    common = [
        f"--config={experiment}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.limit_val_batches=1",
        f"--trainer.default_root_dir={tmp_path}",
        f"--data.demos=[{demos}]",
        "--data.batch_size=2",
        "--data.num_workers=0",
        "--data.val_fraction=0.4",
        "--data.episodes=null",
    ]
    path = tmp_path / "trained.ckpt"
    options = ["--trainer.max_steps=1", "--trainer.enable_checkpointing=false"]
    common.append("--trainer.callbacks=null")
    run(["fit", *common, *options]).trainer.save_checkpoint(path)
    return [*common, f"--ckpt_path={path}"]


def test_the_command_line_wins_over_the_checkpoint_and_says_so(trained):
    with pytest.warns(UserWarning, match=r"sampler\.class_path is .*Argmax.* trained with .*Tweed"):
        ended = run(["validate", *trained, "--model.sampler=ArgmaxSampler"])
    assert type(ended.model.sampler).__name__ == "ArgmaxSampler"


def test_predicted_chunks_are_written_to_the_runs_folder(trained, tmp_path):
    run(["predict", *trained, "--trainer.limit_predict_batches=2"])
    (path,) = tmp_path.rglob("predictions/rank_0.h5")
    with h5py.File(path) as file:
        assert file["predicted"].shape == file["actions"].shape == (4, 12, 8)


def test_a_checkpoint_is_served_in_the_precision_asked_for(trained, monkeypatch):
    served = []
    monkeypatch.setattr(serving, "serve_actor", lambda actor, *_: served.append(type(actor)))
    path = trained[-1].removeprefix("--ckpt_path=")
    for more in ([], ["--precision=bf16-mixed"]):
        e0(["serve", "--checkpoint", path, *more])
    assert served == [E0, HalfPrecision]
    with pytest.raises(SystemExit):
        e0(["serve", "--checkpoint", path, "--precision=16"])
