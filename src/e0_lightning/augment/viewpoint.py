"""Viewpoint perturbation of training batches, on the device the batch is on."""

from __future__ import annotations

import os
import zlib

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from e0_lightning.augment.homography import intrinsics_from_fov
from e0_lightning.augment.spherical_warp import SphericalWarp
from e0_lightning.types import MIRRORED, Batch

_MOVING = ("wrist", "hand", "gripper")
_SHOWN = 8


class ViewpointPerturbation(Callback):
    """Turns the cameras of each training batch at random and says by how much (E0, section 6).

    Each image is warped by its own yaw and pitch, and ``batch["view_offset"][view]`` becomes
    ``(0, yaw, pitch)``: the rotation ``R_x(pitch) R_y(yaw)`` of the scene as that camera sees it.
    A camera known to have turned by Q in its own frame (x right, y down, z forward) shows the
    scene rotated by ``Q^T``: turned left it has a positive horizontal offset, turned down a
    positive vertical one. Views left alone have the offset zero, unless the batch brings one; an
    offset that the batch brings is added to.

    The draws depend on Lightning's seed, the step, the batch, the rank and the view's name alone,
    so a resumed run repeats them and a view's turns do not change with the other views.

    Args:
        max_yaw: Largest turn left or right, degrees, in [0, 90).
        max_pitch: Largest turn up or down, degrees, in [0, 90).
        views: Views to perturb. None: every view whose name does not contain "wrist", "hand" or
            "gripper", since those cameras move with the robot and keep their place on it.
        fov: Field of view between opposite edges, degrees, of every view or by view; read only for
            views whose intrinsics the batch does not carry.
        probability: Share of images that are turned.
        told: Share of them whose offset is written; the others keep zero, as a camera does at
            deployment that nobody measured. 1 is the paper's.
        log_every_n_steps: How often images and their warps go to TensorBoard.

    Raises:
        ValueError: If a limit, the field of view, a share or the interval is out of range.
    """

    def __init__(
        self,
        max_yaw: float = 15.0,
        max_pitch: float = 15.0,
        views: list[str] | None = None,
        fov: float | dict[str, float] | None = None,
        probability: float = 1.0,
        told: float = 1.0,
        log_every_n_steps: int = 1000,
    ) -> None:
        for name, share in (("probability", probability), ("told", told)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it is a share, from 0 to 1.")
        if log_every_n_steps < 1:
            raise ValueError(f"log_every_n_steps is {log_every_n_steps}; it starts at 1.")
        for angle in fov.values() if isinstance(fov, dict) else [fov]:
            if angle is not None:
                intrinsics_from_fov(angle, side=1)
        self.warp = SphericalWarp(max_yaw, max_pitch)
        self.views = views
        self.fov = fov
        self.probability = probability
        self.told = told
        self.log_every_n_steps = log_every_n_steps
        self._trusted: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the intrinsics of the data at hand again."""
        self._trusted.clear()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Warp the chosen views of the batch and write the offsets of all.

        Raises:
            ValueError: If a view to perturb is missing or no camera matrix is known for it.
        """
        if not isinstance(batch, dict) or not isinstance(batch.get("images"), dict):
            raise ValueError(
                "ViewpointPerturbation needs batches that are dicts with images by view name under "
                f"'images', got {type(batch).__name__}. Use RobotDemos, or leave the callback out."
            )
        images, offsets = dict(batch["images"]), dict(batch.get("view_offset", {}))
        for view, image in images.items():
            offsets.setdefault(view, torch.zeros(len(image), 3, device=image.device))
        for view in self._chosen(list(images)):
            original = images[view]
            yaw, pitch, told = self._draw(trainer, batch_idx, view, original)
            intrinsics = self._intrinsics(batch, view, original)
            images[view], _ = self.warp.warp(original, yaw, pitch, intrinsics)
            turn = torch.stack((yaw * 0, yaw, pitch), dim=-1)
            offsets[view] = offsets[view] + turn * told[:, None]
            self._log(trainer, view, original, images[view])
        # New dicts: whoever else holds the batch's own still finds the images as they were.
        batch["images"], batch["view_offset"] = images, offsets

    def _chosen(self, views: list[str]) -> list[str]:
        chosen = self.views
        if chosen is None:
            chosen = [view for view in views if not is_on_gripper(view)]
            if not chosen:
                raise ValueError(
                    f"No view to perturb: the batch has {sorted(views)}, by their names all on the "
                    "robot's hand. Name the ones to perturb in ViewpointPerturbation.views."
                )
        if mirrored := sorted(view for view in chosen if view.endswith(MIRRORED)):
            raise ValueError(
                f"ViewpointPerturbation cannot turn {mirrored}, whose images are mirrored: a turn "
                "to the left would be told as one to the right. Train on the views as they are."
            )
        if missing := sorted(set(chosen) - set(views)):
            raise ValueError(
                f"ViewpointPerturbation.views names {missing}, the batch has {sorted(views)}. "
                "Name views that the data has."
            )
        return chosen

    def _draw(
        self, trainer: Trainer, batch_idx: int, view: str, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Yaw, pitch, and whether they are told, ``(B,)`` on the images' device.

        Drawn on the CPU, the same everywhere.
        """
        name = zlib.crc32(view.encode())
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        source = [seed, trainer.global_step, batch_idx, trainer.global_rank, name]
        state = np.random.SeedSequence(source).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]) >> 1)
        yaw, pitch = self.warp.sample(len(images), generator)
        turned = torch.rand(len(images), generator=generator) < self.probability
        told = torch.rand(len(images), generator=generator) < self.told
        yaw, pitch, told = torch.stack((yaw * turned, pitch * turned, told)).to(images.device)
        return yaw, pitch, told

    def _intrinsics(self, batch: Batch, view: str, images: Tensor) -> Tensor:
        """Camera matrices ``(B, 3, 3)`` of a view, from the batch or else the field of view."""
        known = batch.get("intrinsics", {})
        side = images.shape[-1]
        if view in known:
            if view not in self._trusted:
                _require_frame(known[view], view, side)
                self._trusted.add(view)
            return known[view]
        fov = self.fov.get(view) if isinstance(self.fov, dict) else self.fov
        if fov is None:
            raise ValueError(
                f"No camera matrix of view {view!r}: the batch has intrinsics of {sorted(known)} "
                f"and ViewpointPerturbation.fov is {self.fov}. Use demonstrations that store "
                "intrinsics, or set fov to the camera's field of view in degrees."
            )
        return intrinsics_from_fov(fov, side).to(images.device).expand(len(images), 3, 3)

    def _log(self, trainer: Trainer, view: str, original: Tensor, warped: Tensor) -> None:
        if trainer.global_step % self.log_every_n_steps or not trainer.is_global_zero:
            return
        rows = (torch.cat(tuple(images[:_SHOWN]), dim=-1) for images in (original, warped))
        grid = torch.cat(tuple(rows), dim=-2)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"viewpoint/{view}", grid, trainer.global_step)


def is_on_gripper(view: str) -> bool:
    """Whether a view's name says that its camera rides on the robot's hand."""
    return any(word in view.lower() for word in _MOVING)


def _require_frame(intrinsics: Tensor, view: str, side: int) -> None:
    """Refuse camera matrices that were made for an image of another size.

    Raises:
        ValueError: If a principal point is more than a tenth of the side away from the middle, or
            a focal length is not positive.
    """
    focal = torch.stack((intrinsics[:, 0, 0], intrinsics[:, 1, 1]), dim=-1)
    centre = intrinsics[:, :2, 2]
    fits = (focal > 0).all(dim=-1) & ((centre / side - 0.5).abs() <= 0.1).all(dim=-1)
    if not fits.all():
        found = intrinsics[~fits][0].tolist()
        raise ValueError(
            f"The intrinsics of view {view!r} do not fit its images: {found} for a side of {side} "
            f"pixels, where the principal point should be near ({side / 2:g}, {side / 2:g}). Scale "
            "the matrix as the images were scaled, or drop it and set ViewpointPerturbation.fov."
        )
