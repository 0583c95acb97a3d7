"""Random crops, colours and noise of training images, on the device of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from e0_lightning.augment.spherical_warp import matrix_product
from e0_lightning.augment.viewpoint import ViewpointPerturbation
from e0_lightning.random import seed_global_generator
from e0_lightning.types import Batch

_TOLERANCE = 0.05
"""Pixels by which points may be off an affine map."""


class ImageAugmentation(Callback):
    """Applies transforms of ``torchvision.transforms.v2`` to each image of a training batch.

    Each image of each view is transformed with random parameters of its own, which depend only on
    Lightning's seed, the step, the batch, the rank and the view's name: a resumed run repeats them.
    Earlier images of a view are transformed like its current one. The global random state is left
    as it is.

    Where the batch has a view's camera matrix ``C``, the transforms may be crops, shifts, scales,
    rotations and shears: the map ``A`` of pixels is affine, and the matrix becomes ``A C``.
    Reflections are refused, as actions are not reflected, and so are bends, which no matrix
    describes.

    It follows :class:`ViewpointPerturbation` in the list of callbacks, whose rotations are those of
    the recorded camera.

    Args:
        transforms: Transforms, applied in turn; the result has the size and type of the image.
            ``torchvision.transforms.v2.RandomAffine`` with ``translate`` and ``scale`` shifts and
            crops images of any size.
        views: Views to augment; None: all.
    """

    def __init__(self, transforms: list[v2.Transform], views: list[str] | None = None) -> None:
        self.transform = v2.Compose(transforms)
        self.views = views

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the order of callbacks, and views against the data if it has a spec.

        Raises:
            ValueError: If a ViewpointPerturbation follows, or a view is not in the data.
        """
        following = trainer.callbacks[trainer.callbacks.index(self) :]  # type: ignore[attr-defined]
        if any(isinstance(callback, ViewpointPerturbation) for callback in following):
            raise ValueError(
                "ImageAugmentation: expected it after ViewpointPerturbation in trainer.callbacks, "
                "got it before. Give the config file with ImageAugmentation last."
            )
        spec = getattr(getattr(trainer, "datamodule", None), "spec", None)
        if spec is not None:
            self._select_views(list(spec.views))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Transform the images of the batch, and move its camera matrices with them.

        Raises:
            ValueError: If a view is missing, or the transforms change size or type of an image or
                reflect or bend one whose camera matrix is known.
        """
        images, intrinsics = dict(batch["images"]), dict(batch.get("intrinsics", {}))
        past = dict(batch["history"]["images"]) if "history" in batch else {}
        for view in self._select_views(list(images)):
            clips = images[view].unsqueeze(1)
            if view in past:
                clips = torch.cat([past[view], clips], dim=1)
            key = ("augmentation", trainer.global_step, batch_idx, trainer.global_rank, view)
            with seed_global_generator(clips.device, *key):
                if view in intrinsics:
                    clips, moved = self._transform_with_points(clips, view)
                    intrinsics[view] = matrix_product(moved.to(intrinsics[view]), intrinsics[view])
                else:
                    clips = _stack([self.transform(clip) for clip in clips], clips, view)
            images[view] = clips[:, -1]
            if view in past:
                past[view] = clips[:, :-1]
        # New dicts: other references to the batch's own keep the original images.
        batch["images"] = images
        if intrinsics:
            batch["intrinsics"] = intrinsics
        if past:
            batch["history"] = {**batch["history"], "images": past}

    def _transform_with_points(self, clips: Tensor, view: str) -> tuple[Tensor, Tensor]:
        """Transformed clips, and the maps ``(B, 3, 3)`` that move their pixels."""
        size = tuple(clips.shape[-2:])
        points = tv_tensors.KeyPoints(_grid(clips), canvas_size=size)
        changed, moved = zip(
            *(self.transform(tv_tensors.Image(clip), points) for clip in clips), strict=True
        )
        stacked = _stack([clip.as_subclass(Tensor) for clip in changed], clips, view)
        maps = _affine(torch.stack([each.as_subclass(Tensor) for each in moved]), clips, view)
        return stacked, maps

    def _select_views(self, available: list[str]) -> list[str]:
        selected = available if self.views is None else self.views
        if missing := sorted(set(selected) - set(available)):
            raise ValueError(
                f"ImageAugmentation: expected views among {sorted(available)}, got {missing}. "
                "Change its `views`, or read that view in `data.views`."
            )
        return selected


def _stack(changed: Sequence[Tensor], clips: Tensor, view: str) -> Tensor:
    """Transformed clips as a batch, if their images have the size and type of the original ones."""
    expected = clips[0, 0]
    for clip in changed:
        if clip.shape != clips.shape[1:] or clip.dtype != clips.dtype:
            raise ValueError(
                f"ImageAugmentation: expected transforms that return images of view {view!r} as "
                f"{tuple(expected.shape)} {expected.dtype}, got {tuple(clip.shape[1:])} "
                f"{clip.dtype}. Scale to the size of the view, or crop with RandomAffine's "
                "translate and scale."
            )
    return torch.stack(list(changed))


def _grid(images: Tensor) -> Tensor:
    """Corners, middles of the edges and centre of images ``(…, h, w)``, ``(9, 2)``, pixels."""
    height, width = images.shape[-2:]
    ends = (torch.tensor([0, side / 2, side]) for side in (width, height))
    return torch.cartesian_prod(*ends)


def _affine(moved: Tensor, images: Tensor, view: str) -> Tensor:
    """Maps ``(B, 3, 3)`` of pixels that move the points of :func:`_grid` to ``moved (B, 9, 2)``."""
    homogeneous = torch.nn.functional.pad(_grid(images), (0, 1), value=1).double()
    solution = cast(Tensor, torch.linalg.pinv(homogeneous)) @ moved.double()
    is_bent = (homogeneous @ solution - moved).abs().amax() > _TOLERANCE
    if is_bent or (torch.linalg.det(solution[:, :2]) <= 0).any():
        raise ValueError(
            f"ImageAugmentation: expected transforms that crop, shift, scale, rotate or shear view "
            f"{view!r}, whose camera matrix is in the batch, got one that "
            f"{'bends' if is_bent else 'mirrors'} it. Remove that transform, or leave out the view."
        )
    last = solution.new_tensor([0, 0, 1]).expand(len(moved), 1, 3)
    return torch.cat([solution.mT, last], dim=1)
