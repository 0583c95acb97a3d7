from pathlib import Path

import pytest

from e0_lightning.cli.lightning_cli import CommandLine, run


@pytest.fixture(scope="session")
def tiny_experiment(demos) -> list[str]:
    """Options of the main experiment on a small file, without callbacks and evaluation episodes."""
    return [
        "--config=maniskill.yaml",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.limit_val_batches=1",
        "--trainer.callbacks=null",
        f"--data.demos=[{demos}]",
        "--data.batch_size=2",
        "--data.num_workers=0",
        "--data.val_fraction=0.4",
        "--data.episodes=null",
    ]


@pytest.fixture(scope="module")
def trained_run(tiny_experiment, tmp_path_factory) -> Path:
    """Checkpoint of a run of one step, in the folder that the run has created."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["fit", *tiny_experiment, f"--trainer.default_root_dir={folder}"]
    checkpointing = (
        "--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {save_last: true}}]"
    )
    run([*words, "--trainer.max_steps=1", checkpointing])
    (path,) = folder.rglob("last.ckpt")
    return path


@pytest.fixture
def parse(monkeypatch):
    """Parse a ``lightning`` command line without building anything."""
    monkeypatch.setattr(CommandLine, "instantiate_classes", lambda self: None)
    return lambda *words: run([*map(str, words)], start=False).config
