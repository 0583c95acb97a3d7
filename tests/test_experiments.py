"""Every experiment file, alone or over its benchmark, trains on real demonstrations."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest
import yaml

from e0_lightning.cli import run
from e0_lightning.comparison.tables import read_tables

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
# Tasks whose demonstrations are not those of the main experiment.
TASKS = [path for path in sorted(EXPERIMENTS.glob("task/*.yaml")) if path.stem != "PushPull"]
COMPARED = sorted(EXPERIMENTS.glob("compare/*.yaml"))
# Built without memory, or shrunk, in test_experiments_backbone.py.
LARGE = [EXPERIMENTS / "backbone" / name for name in ("paligemma.yaml", "qwen.yaml")]
OVERLAYS = sorted(set(EXPERIMENTS.glob("*/*.yaml")) - set(TASKS) - set(LARGE) - set(COMPARED))
FILES = sorted(EXPERIMENTS.rglob("*.yaml"))
# Variants that are an overlay and nothing more are tried as such.
VARIANTS = {
    name: words
    for table in read_tables(COMPARED)
    for name, words in {**table.trained, **table.sampled}.items()
    if any(word.startswith("--") for word in words)
}


def fit(demos: Path, folder: Path, *configs: Path, options: Sequence[str] = ()) -> int:
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


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_overlay_trains_over_the_main_experiment(overlay, demos, tmp_path):
    assert fit(demos, tmp_path, EXPERIMENTS / "maniskill.yaml", overlay) == 2


@pytest.mark.parametrize("overlay", TASKS, ids=lambda path: path.stem)
def test_task_trains_on_demos_of_its_own(overlay, demos, tmp_path):
    for suffix in (".h5", ".json"):
        shutil.copy(demos.parent / f"{overlay.stem}{suffix}", tmp_path)
    own = tmp_path / f"{overlay.stem}.h5"
    with h5py.File(own, "a") as file:
        # The small files lack the hand's camera, whose moving view is eight times as large.
        for group in ("sensor_data", "sensor_param"):
            seen = file[f"traj_0/obs/{group}"]
            seen["hand_camera"] = seen["base_camera"]
    assert fit(own, tmp_path, EXPERIMENTS / "maniskill.yaml", overlay) == 2


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_of_a_comparison_trains_over_the_main_experiment(name, demos, tmp_path):
    options = VARIANTS[name]
    assert fit(demos, tmp_path, EXPERIMENTS / "maniskill.yaml", options=options) == 2


@pytest.mark.parametrize("path", COMPARED, ids=lambda path: path.stem)
def test_a_comparison_names_files_that_there_are(path):
    (table,) = read_tables([path])
    files = [word for words in table.trained.values() for word in words if word[0] != "-"]
    files += [word for words in table.sampled.values() for word in words if word[0] != "-"]
    assert files
    assert all((EXPERIMENTS.parent / file).is_file() for file in files)


def test_main_experiment_trains_alone(demos, tmp_path):
    assert fit(demos, tmp_path, EXPERIMENTS / "maniskill.yaml") == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_only_what_it_decides(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 40
    assert "${" not in path.read_text()
    assert isinstance(yaml.safe_load(path.read_text()), dict)
