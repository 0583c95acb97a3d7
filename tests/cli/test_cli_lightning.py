import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from e0_lightning.cli import e0_cli, lightning_cli
from e0_lightning.cli.from_checkpoint import take_model
from e0_lightning.cli.lightning_cli import build_experiment, run
from e0_lightning.cli.options import Option

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
BORING = "lightning.pytorch.demos.boring_classes"
QUIET = [
    "--trainer.fast_dev_run=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_any_lightning_module_runs_by_class_path(verb):
    names = [f"--model={BORING}.BoringModel", f"--data={BORING}.BoringDataModule"]
    ended = run([verb, *names, *QUIET])
    assert type(ended.model).__name__ == "BoringModel"
    assert ended.trainer.state.status == "finished"
    assert ended.trainer.global_step == (verb == "fit")


def test_a_module_with_its_own_loaders_needs_no_data_module():
    assert run(["fit", f"--model={BORING}.BoringModel", *QUIET]).trainer.global_step == 1


def test_public_classes_are_found_by_their_bare_names(capsys):
    with pytest.raises(SystemExit):
        run(["fit", "--model.help", "E0"])
    assert "--model.token_per" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "work"),
    [(lightning_cli.main, (lightning_cli, "run")), (e0_cli.e0, (e0_cli, "run_verb"))],
)
def test_scripts_find_classes_in_the_working_directory(script, work, tmp_path, monkeypatch):
    (tmp_path / "my_own_research.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    specs = []
    monkeypatch.setattr(*work, lambda *_: specs.append(find_spec("my_own_research")))
    monkeypatch.setattr(sys, "argv", ["script", "inspect"])
    script()
    assert specs[0].origin == str(tmp_path / "my_own_research.py")


def test_the_installed_scripts_are_those_of_this_package():
    version = subprocess.run([BIN / "lightning", "--version"], capture_output=True, text=True)
    assert "e0-lightning" in version.stdout


def test_sizes_left_out_come_from_the_demonstrations(tiny_experiment):
    built = build_experiment(tiny_experiment)
    assert built.model.encoder.state_dim == 16
    assert (built.model.actions.dim, built.model.actions.horizon) == (8, 12)
    saved = built.model.hparams
    assert saved["actions"]["init_args"]["horizon"] == 12
    assert saved["encoder"]["init_args"]["state_dim"] == 16


def test_sizes_that_are_given_are_left_as_they_are(tiny_experiment):
    sizes = {"encoder.state_dim": 3, "actions.normalizer.dim": 4, "actions.horizon": 5}
    words = [f"--model.{name}={size}" for name, size in sizes.items()]
    built = build_experiment([*tiny_experiment, *words, "--data.demos=[absent.h5]"])
    assert built.model.encoder.state_dim == 3
    assert (built.model.actions.dim, built.model.actions.horizon) == (4, 5)


def test_sizes_without_data_are_an_error_that_names_them(tiny_experiment):
    with pytest.raises(ValueError, match=r"encoder\.state_dim, actions\.normalizer\.dim"):
        build_experiment([*tiny_experiment, "--data=null"])


def test_a_checkpoint_brings_its_model_where_none_is_configured(trained_run, tiny_experiment):
    words = [word for word in tiny_experiment if "config" not in word]
    words[words.index("--data.episodes=null")] = "--data.horizon=12"
    data = ["--data=RobotDemos", "--data.views=[base_camera]", "--data.state=[qpos, tcp_pose]"]
    ended = run(["validate", *data, *words, f"--ckpt_path={trained_run}"])
    assert type(ended.model).__name__ == "E0"
    assert ended.trainer.callback_metrics["val/loss"] > 0


def test_the_model_of_a_checkpoint_is_used_in_place_of_a_config_files(
    trained_run, tiny_experiment, tmp_path
):
    other = tmp_path / "other.yaml"
    other.write_text("model: {class_path: E0, init_args: {process: {num_bins: 32}}}")
    ended = run(["validate", *tiny_experiment, f"--config={other}", f"--ckpt_path={trained_run}"])
    assert ended.model.process.num_bins == 256


@pytest.mark.parametrize("word", ["--model.sampler=ArgmaxSampler", "--config=policy/argmax.yaml"])
def test_options_and_overlays_change_the_checkpoints_model_and_are_announced(
    word, trained_run, tiny_experiment
):
    with pytest.warns(UserWarning, match=r"sampler\.class_path is ArgmaxSampler .* Tweedie"):
        ended = run(["validate", *tiny_experiment, word, f"--ckpt_path={trained_run}"])
    assert type(ended.model.sampler).__name__ == "ArgmaxSampler"


@pytest.mark.parametrize("overlays", [[], ["{model: {init_args: {process: {num_bins: 256}}}}"]])
def test_settings_that_give_way_to_the_checkpoints_are_announced_unless_an_overlay_sets_them(
    overlays, trained_run, tmp_path, monkeypatch
):
    said = []
    monkeypatch.setattr("e0_lightning.cli.from_checkpoint.rank_zero_info", said.append)
    other = tmp_path / "other.yaml"
    other.write_text("model: {class_path: E0, init_args: {process: {num_bins: 32}}}")
    options = [Option("--config", each) for each in (str(other), *overlays)]
    take_model(options, str(trained_run))
    assert ["num_bins (256, not 32)" in text for text in said] == ([] if overlays else [True])


def test_an_unchanged_model_is_not_announced(trained_run, tiny_experiment):
    with warnings.catch_warnings(record=True) as caught:
        run(["validate", *tiny_experiment, f"--ckpt_path={trained_run}"])
    assert not [w for w in caught if "by the command line" in str(w.message)]


def test_a_test_and_a_prediction_stay_in_the_folder_of_the_run(trained_run, tiny_experiment):
    folder = trained_run.parent.parent
    saved = (folder / "config.yaml").read_text()
    run(["predict", *tiny_experiment, f"--ckpt_path={trained_run}"])
    assert list(folder.rglob("predictions/*"))
    assert (folder / "predict.yaml").exists()
    assert (folder / "config.yaml").read_text() == saved
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]


def test_a_run_that_is_refused_leaves_no_folder(tiny_experiment, tmp_path):
    words = ["fit", *tiny_experiment, f"--trainer.default_root_dir={tmp_path / 'runs'}"]
    with pytest.raises(ValueError, match="state"):
        run([*words, "--model.encoder.state_dim=3", "--trainer.max_steps=1"])
    assert not list(tmp_path.rglob("version_*"))


def test_a_run_claims_a_folder_of_its_own(tiny_experiment, tmp_path):
    (tmp_path / "lightning_logs" / "version_0").mkdir(parents=True)
    words = [*tiny_experiment, f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=1"]
    ended = run(["fit", *words])
    assert Path(ended.trainer.log_dir).name == "version_1"
