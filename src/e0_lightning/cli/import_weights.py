"""`e0 import-weights`: foreign weights as a checkpoint of an experiment's policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import TorchCheckpointIO

from e0_lightning.cli.experiment import build
from e0_lightning.weights.mapping import load_mapped
from e0_lightning.weights.openpi import plan as plan_import
from e0_lightning.weights.shards import find_shards, read_names, read_tensors


def import_weights(source: str, experiment: list[str], out: str) -> None:
    """Write the first checkpoint of a policy with the weights of PaliGemma, π0 or π0.5.

    ``lightning fit`` starts from it by ``--model.weights OUT``. Where the experiment's
    demonstrations are at hand, it also holds their spec and statistics, and can act.

    Args:
        source: A safetensors file, a folder of them, or a repository of the Hugging Face hub.
        experiment: What describes the policy to ``lightning fit``, as it is there: ``--config
            FILE``, and any of ``--trainer…``, ``--data…`` and ``--model…``.
        out: The checkpoint to write.
    """
    shards = find_shards(source)
    plan = plan_import(read_names(shards))
    built = build(experiment)
    print(load_mapped(dict(built.model.named_parameters()), read_tensors(shards), plan))
    try:
        built.model.fit_normalizers(built.datamodule)
    except (ValueError, OSError) as error:
        print(f"No spec and no statistics, so it cannot act before `lightning fit`: {error}")
    # A run's callbacks have nothing to say about weights that were not trained.
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, plugins=[_Streamed()]
    )
    trainer.strategy.connect(built.model)
    trainer.save_checkpoint(out, weights_only=True)


class _Streamed(TorchCheckpointIO):
    """Writes tensor by tensor, where Lightning first lays the file out whole in memory."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        target, unfinished = Path(path), Path(f"{path}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, unfinished)
        unfinished.replace(target)
