"""Callbacks that every policy adds to its trainer."""

from __future__ import annotations

import lightning.pytorch as pl

from e0_lightning.training.callbacks.atomic_checkpoints import AtomicCheckpoints
from e0_lightning.training.callbacks.batch_images import BatchImages
from e0_lightning.training.callbacks.evaluation_metrics import EvaluationMetrics
from e0_lightning.training.callbacks.numerics import NumericalChecks
from e0_lightning.training.callbacks.progress_lines import ProgressLines
from e0_lightning.training.callbacks.throughput import TrainingThroughput

DEFAULT_CALLBACKS: tuple[type[pl.Callback], ...] = (
    AtomicCheckpoints,
    NumericalChecks,
    TrainingThroughput,
    EvaluationMetrics,
    ProgressLines,
    BatchImages,
)


def default_callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    """Default callbacks, except those of a type that the trainer already has."""
    given: set[type] = {type(callback) for callback in getattr(trainer, "callbacks", [])}
    return [callback() for callback in DEFAULT_CALLBACKS if callback not in given]
