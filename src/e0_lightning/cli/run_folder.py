"""The folder of a run: one per run, kept by all verbs, and none for a run that never starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

VERSIONED = (TensorBoardLogger, CSVLogger)
"""Loggers that number the runs of a folder, ``version_0`` and so on."""


class SaveConfig(SaveConfigCallback):
    """Saves the configuration of each verb in the run's folder, ``config.yaml`` for ``fit``."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save under a name of the verb, so that a test leaves the training's file as it is."""
        verb = str(getattr(stage, "value", stage))
        if verb != "fit":
            self.config_filename = f"{verb}.yaml"
        super().setup(trainer, pl_module, stage)


class StartMonitor(Callback):
    """Records whether a run has processed its first batch."""

    def __init__(self) -> None:
        self.has_started = False

    def on_train_batch_start(self, *_: Any) -> None:
        """Training has started."""
        self.has_started = True

    def on_validation_batch_end(self, *_: Any) -> None:
        """A validation has started."""
        self.has_started = True

    def on_test_batch_end(self, *_: Any) -> None:
        """A test has started."""
        self.has_started = True

    def on_predict_batch_end(self, *_: Any) -> None:
        """A prediction has started."""
        self.has_started = True


def stay_in_run_folder(trainer: Trainer, checkpoint: str) -> bool:
    """Let a versioned logger write to the folder of the run that wrote a checkpoint.

    Returns:
        Whether the checkpoint lies in such a folder, ``…/NAME/version_N/checkpoints``.
    """
    folder = Path(checkpoint).resolve().parent
    version = folder.parent.name.removeprefix("version_")
    if folder.name != "checkpoints" or not version.isdigit():
        return False
    for logger in trainer.loggers:
        if type(logger) in VERSIONED and Path(str(logger.name)).name == folder.parent.parent.name:
            root: Any = logger
            root._root_dir = str(folder.parents[2])
            root._version = int(version)
            return True
    return False


@contextmanager
def claimed_run_folder(trainer: Trainer) -> Iterator[None]:
    """Reserve the next version of a logger's folder; remove it if no batch is processed.

    Creating it is atomic, so that runs that start at the same time have a folder each.
    """
    folder = _claim(trainer) if getattr(rank_zero_only, "rank", 0) == 0 else None
    monitor = StartMonitor()
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(monitor)
    try:
        yield
    except BaseException:
        if folder is not None and not monitor.has_started:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(folder.parent)
        raise
    finally:
        callbacks.remove(monitor)


def _claim(trainer: Trainer) -> Path | None:
    for logger in trainer.loggers:
        numbered: Any = logger
        if type(logger) not in VERSIONED or numbered._version is not None:
            continue
        while True:
            version = numbered._get_next_version()
            folder = Path(numbered.root_dir) / f"version_{version}"
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            numbered._version = version
            return folder
    return None


def _remove_empty(folder: Path) -> None:
    """Remove a folder if it is empty."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
