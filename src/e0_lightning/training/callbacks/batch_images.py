"""Images of the first training batch, as the network receives them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor


class BatchImages(pl.Callback):
    """Logs the first training batch after augmentation, crop and resize, one image per view.

    Every logger of the trainer that takes images gets ``train/images/<view>``: TensorBoard, and
    those with ``log_image`` as W&B's.

    Args:
        num_images: Most observations to show side by side.
    """

    def __init__(self, num_images: int = 8) -> None:
        self.num_images = num_images
        self._is_logged = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log once per fit."""
        self._is_logged = False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the images of the first batch, with what callbacks have changed in it."""
        if self._is_logged:
            return
        self._is_logged = True
        if not trainer.is_global_zero or not trainer.loggers:
            return
        for view, frames in batch["images"].items():
            strip = network_images(pl_module, frames[: self.num_images], view)
            for logger in trainer.loggers:
                log_image(logger, f"train/images/{view}", strip, trainer.global_step)


@torch.no_grad()
def network_images(policy: Any, frames: Tensor, view: str) -> Tensor:
    """Frames as the vision encoder prepares them, side by side, ``(3, h, n·w)`` uint8.

    Args:
        policy: Policy with ``encoder.vision``.
        frames: ``(n, 3, h, w)`` of a batch, uint8 or float in [0, 1].
        view: Name of the view.
    """
    vision = policy.encoder.vision
    prepared = vision.prepare(frames, view).float() * vision.std + vision.mean
    pixels = (prepared.clamp(0, 1) * 255).round().to(torch.uint8)
    return torch.cat(list(pixels), dim=-1).cpu()


def log_image(logger: Any, name: str, image: Tensor, step: int) -> None:
    """Send an image ``(3, h, w)`` uint8 to a logger, if it takes images."""
    if hasattr(logger, "log_image"):
        logger.log_image(name, [image.permute(1, 2, 0).numpy()], step=step)
    elif hasattr(getattr(logger, "experiment", None), "add_image"):
        logger.experiment.add_image(name, image, step)
