"""Every experiment file, alone or over the main experiment, trains on real demonstrations."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest
import yaml

from e0_lightning.cli.lightning_cli import run
from e0_lightning.comparison.tables import read_tables, to_options

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
# Tasks with other demonstrations than those of the main experiment.
TASKS = [path for path in sorted(EXPERIMENTS.glob("task/*.yaml")) if path.stem != "PushPull"]
COMPARED = sorted(EXPERIMENTS.glob("compare/*.yaml"))
# Too large to train: see test_experiments_backbone.py.
LARGE = [EXPERIMENTS / "backbone" / f"{name}.yaml" for name in ("paligemma", "pi0", "pi05", "qwen")]
# Over other experiments, each with tests of its own.
OTHERS = [
    path for name in ("aloha", "libero", "pusht") for path in EXPERIMENTS.glob(f"{name}/*.yaml")
]
OVERLAYS = sorted(
    set(EXPERIMENTS.glob("*/*.yaml")) - set(TASKS) - set(LARGE) - set(COMPARED) - set(OTHERS)
)
FILES = sorted(EXPERIMENTS.rglob("*.yaml"))
# Variants with options; those of files only are tested as overlays.
VARIANTS = {
    name: words
    for table in read_tables(COMPARED)
    for name, words in {**table.training_variants, **table.inference_variants}.items()
    if any(word.startswith("--") for word in words)
}


def fit(demos: Path, folder: Path, *configs: Path, options: Sequence[str] = ()) -> int:
    """Train for two steps; returns the steps taken."""
    ended = run(
        [
            "fit",
            *(f"--config={config}" for config in configs),
            *options,
            "--trainer.fast_dev_run=2",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={folder}",
            f"--data.demos=[{demos}]",
            "--data.batch_size=2",
            "--data.num_workers=0",
            "--data.val_fraction=0",
            "--data.episodes=null",
        ]
    )
    return ended.trainer.global_step


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_overlay_trains_over_the_main_experiment(overlay, demos, tmp_path):
    assert fit(demos, tmp_path, EXPERIMENTS / "maniskill.yaml", overlay) == 2


@pytest.mark.slow
@pytest.mark.parametrize("overlay", TASKS, ids=lambda path: path.stem)
def test_task_trains_on_demos_of_its_own(overlay, demos, tmp_path):
    for suffix in (".h5", ".json"):
        shutil.copy(demos.parent / f"{overlay.stem}{suffix}", tmp_path)
    own = tmp_path / f"{overlay.stem}.h5"
    with h5py.File(own, "a") as file:
        # The small files have no hand camera: its images compress eight times worse.
        for group in {"sensor_data", "sensor_param"} & set(file["traj_0/obs"]):
            cameras = file[f"traj_0/obs/{group}"]
            cameras["hand_camera"] = cameras["base_camera"]
    assert fit(own, tmp_path, EXPERIMENTS / "maniskill.yaml", overlay) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_of_a_comparison_trains_over_the_main_experiment(
    name, demos, tmp_path, monkeypatch
):
    monkeypatch.chdir(EXPERIMENTS.parent)
    options = to_options(VARIANTS[name])
    assert fit(demos, tmp_path, EXPERIMENTS / "maniskill.yaml", options=options) == 2


@pytest.mark.parametrize("path", COMPARED, ids=lambda path: path.stem)
def test_a_comparison_names_existing_files(path):
    (table,) = read_tables([path])
    files = [word for words in table.training_variants.values() for word in words if word[0] != "-"]
    files += [
        word for words in table.inference_variants.values() for word in words if word[0] != "-"
    ]
    assert files
    assert all((EXPERIMENTS.parent / file).is_file() for file in files)


def test_main_experiment_trains_alone(demos, tmp_path):
    assert fit(demos, tmp_path, EXPERIMENTS / "maniskill.yaml") == 2


def test_base_trains_on_data_that_are_given(demos, tmp_path):
    options = ["--data.views=[base_camera]", "--data.state=[qpos]"]
    assert fit(demos, tmp_path, EXPERIMENTS / "base.yaml", options=options) == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_short_and_starts_with_its_purpose(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 40
    assert "${" not in path.read_text()
    assert isinstance(yaml.safe_load(path.read_text()), dict)
