"""`e0 import-weights`: published weights as a checkpoint of an experiment's policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import TorchCheckpointIO

from e0_lightning.cli.lightning_cli import build_experiment
from e0_lightning.weights.mapping import load_mapped
from e0_lightning.weights.openpi import openpi_mapping
from e0_lightning.weights.shards import find_shards, read_names, read_tensors


def import_weights(source: str, experiment: list[str], out: str) -> None:
    """Write a checkpoint of a policy with the weights of PaliGemma, π0 or π0.5.

    ``lightning fit --model.weights OUT`` starts from it. Where the experiment's demonstrations are
    available, the checkpoint also holds their spec and statistics, and its policy can act.

    Args:
        source: A safetensors file, a folder of them, or a repository of the Hugging Face hub.
        experiment: Options that describe the policy to ``lightning fit``: ``--config FILE``, and
            any of ``--trainer…``, ``--data…`` and ``--model…``.
        out: The checkpoint to write.
    """
    shards = find_shards(source)
    mapping = openpi_mapping(read_names(shards))
    built = build_experiment(experiment)
    print(load_mapped(dict(built.model.named_parameters()), read_tensors(shards), mapping))
    try:
        built.model.fit_normalizers(built.datamodule)
    except (ValueError, OSError) as error:
        print(f"No spec and no statistics: it cannot act before `lightning fit` ({error})")
    # Not the experiment's trainer: its callbacks are for trained weights.
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        plugins=[_StreamedCheckpointIO()],
    )
    trainer.strategy.connect(built.model)
    trainer.save_checkpoint(out, weights_only=True)


class _StreamedCheckpointIO(TorchCheckpointIO):
    """Writes tensor by tensor; Lightning's own first builds the whole file in memory."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        target, unfinished = Path(path), Path(f"{path}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, unfinished)
        unfinished.replace(target)
