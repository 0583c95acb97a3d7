"""Viewpoint perturbation of training batches, on the device of the batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor

from e0_lightning.augment.orbit import OrbitWarp
from e0_lightning.augment.spherical_warp import SphericalWarp
from e0_lightning.geometry import camera_matrix
from e0_lightning.random import sample_uniform, seeded_generator
from e0_lightning.types import MIRRORED, Batch

ON_GRIPPER = ("wrist", "hand", "gripper")
"""Words in the names of views whose cameras move with the robot."""

LOGGED_IMAGES = 8
"""Images of a batch that are logged."""


class ViewpointPerturbation(Callback):
    """Rotates the cameras of each training batch at random and writes their offsets (E0, sec. 6).

    Each image is warped by its own yaw and pitch, and ``batch["view_offset"][view]`` becomes
    ``(0, yaw, pitch)``: the rotation ``R_x(pitch) R_y(yaw)`` of the scene in that camera's frame.
    A camera that is rotated by Q in its own frame (x right, y down, z forward) observes the scene
    rotated by ``Q^T``: turned left it has a positive horizontal offset, turned down a positive
    vertical one. Other views have the offset zero. Where the batch already has an offset, the new
    one is added to it. Earlier images of a view are warped like its current one.

    With ``max_radial`` cameras do not turn in place but move around their look-at points, with
    parallax (:class:`OrbitWarp`), and offsets are ``(radial, yaw, pitch)``: the relative change of
    the distance, and the rotation of the scene about the look-at point. That needs the depth of the
    views, ``data.depth``, and no history.

    The angles depend only on Lightning's seed, the step, the batch, the rank and the view's name: a
    resumed run repeats them, and the angles of a view do not change with the other views.

    Args:
        max_yaw: Largest rotation left or right, degrees, in [0, 90).
        max_pitch: Largest rotation up or down, degrees, in [0, 90).
        views: Views to perturb. None: every third-person view, by its name: those without "wrist",
            "hand" or "gripper", whose cameras move with the robot and keep their place on it.
        fov: Vertical field of view, degrees, of every view or by view; used for views
            whose intrinsics are not in the batch.
        probability: Share of images that are rotated.
        offset_keep_prob: Share of the rotated images whose offset is written. The offset of the
            others stays zero, as that of a camera at deployment whose displacement is not measured.
            1 is the paper's.
        relative: Give the views that are not rotated the opposite offset of the one that is, as the
            paper does (eq. 18 and 19): each view then has its displacement from the other.
        log_every_n_steps: Steps between logged images and their warps.
        max_radial: Largest relative change of a camera's distance from its look-at point, in
            [0, 1), around which it then moves; None turns cameras in place.

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
        offset_keep_prob: float = 1.0,
        relative: bool = False,
        log_every_n_steps: int = 1000,
        max_radial: float | None = None,
    ) -> None:
        shares = {"probability": probability, "offset_keep_prob": offset_keep_prob}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {share}.")
        if log_every_n_steps < 1:
            raise ValueError(f"log_every_n_steps: expected at least 1, got {log_every_n_steps}.")
        for angle in fov.values() if isinstance(fov, dict) else [fov]:
            if angle is not None:
                camera_matrix(angle, 1, 1)
        self.warp = SphericalWarp(max_yaw, max_pitch)
        self.orbit = None if max_radial is None else OrbitWarp(max_yaw, max_pitch, max_radial)
        self.views = views
        self.fov = fov
        self.probability = probability
        self.offset_keep_prob = offset_keep_prob
        self.relative = relative
        self.log_every_n_steps = log_every_n_steps
        self._checked: set[str] = set()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the names of views against the data, where the data module has a spec.

        Raises:
            ValueError: If a view to perturb is not in the data.
        """
        spec = getattr(getattr(trainer, "datamodule", None), "spec", None)
        self._checked.clear()
        if spec is not None:
            self._select_views(list(spec.views))
            # Crops move the principal point away from the middle, which is checked below.
            self._checked = {view for view, size in spec.views.items() if size.crop is not None}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Warp the selected views of the batch and write the offsets of all.

        Raises:
            ValueError: If a view to perturb is missing, or has no camera matrix or needed depth.
        """
        if not isinstance(batch, dict) or not isinstance(batch.get("images"), dict):
            raise ValueError(
                "ViewpointPerturbation: expected a batch that is a dict with images by view name "
                f"under 'images', got {type(batch).__name__}. Use RobotDemos, or remove the "
                "callback."
            )
        images, offsets = dict(batch["images"]), dict(batch.get("view_offset", {}))
        past = dict(batch["history"]["images"]) if "history" in batch else {}
        for view, image in images.items():
            offsets.setdefault(view, torch.zeros(len(image), 3, device=image.device))
        selected = self._select_views(list(images))
        for view in selected:
            original = images[view]
            key = ("viewpoint", trainer.global_step, batch_idx, trainer.global_rank, view)
            displacement, kept = self._sample(key, original)
            intrinsics = self._intrinsics(batch, view, original)
            if self.orbit is None:
                _, yaw, pitch = displacement.unbind(-1)
                images[view], _ = self.warp.warp(original, yaw, pitch, intrinsics)
                if view in past:
                    past[view] = self._warp_clips(past[view], yaw, pitch, intrinsics)
            else:
                depth = _depth(batch, view)
                images[view], _ = self.orbit.warp(original, depth, displacement, intrinsics)
            offset = displacement * kept[:, None]
            offsets[view] = offsets[view] + offset
            if self.relative:
                others = [each for each in images if each not in selected]
                offsets |= {other: offsets[other] - offset for other in others}
            if trainer.global_step % self.log_every_n_steps == 0 and trainer.is_global_zero:
                pair = _side_by_side(original, images[view])
                _log_image(trainer.loggers, f"viewpoint/{view}", pair, trainer.global_step)
        # New dicts: other references to the batch's own keep the original images.
        batch["images"], batch["view_offset"] = images, offsets
        if past:
            batch["history"] = {**batch["history"], "images": past}

    def _warp_clips(self, clips: Tensor, *cameras: Tensor) -> Tensor:
        """Warp all of the m images of each clip, ``(B, m, 3, h, w)``, alike."""
        batch, steps = clips.shape[:2]
        repeated = (each.repeat_interleave(steps, dim=0) for each in cameras)
        warped, _ = self.warp.warp(clips.flatten(0, 1), *repeated)
        return warped.reshape(batch, steps, *warped.shape[1:])

    def _select_views(self, available: list[str]) -> list[str]:
        selected = self.views
        if selected is None:
            selected = [view for view in available if not is_on_gripper(view)]
            if not selected:
                raise ValueError(
                    "ViewpointPerturbation: expected a third-person view, got only views on the "
                    f"robot, by their names: {sorted(available)}. Name those to perturb in its "
                    "`views`, or remove it."
                )
        if mirrored := sorted(view for view in selected if view.endswith(MIRRORED)):
            raise ValueError(
                f"ViewpointPerturbation cannot rotate {mirrored}, whose images are mirrored: left "
                "and right of the offset would be swapped. Train on the views that are not."
            )
        if self.relative and (len(selected) != 1 or len(available) < 2):
            raise ValueError(
                "ViewpointPerturbation.relative: expected one view to rotate and others beside it, "
                f"got {sorted(selected)} of {sorted(available)}. Name one view in its `views`, or "
                "leave `relative` out."
            )
        named = {*selected, *(self.fov if isinstance(self.fov, dict) else ())}
        if missing := sorted(named - set(available)):
            raise ValueError(
                f"ViewpointPerturbation: expected views among {sorted(available)}, got {missing}. "
                "Change its `views` or `fov`, or read that view in `data.views`."
            )
        return selected

    def _sample(self, key: tuple[int | str, ...], images: Tensor) -> tuple[Tensor, Tensor]:
        """Displacements ``(B, 3)``, and whether they are written ``(B,)``, on the images' device.

        They are sampled on the CPU, so that they are the same on every device.
        """
        generator, count = seeded_generator(*key), len(images)
        if self.orbit is None:
            yaw, pitch = self.warp.sample(count, generator)
            displacement = torch.stack((yaw * 0, yaw, pitch), dim=-1)
        else:
            displacement = self.orbit.sample(count, generator)
        moved = sample_uniform((count,), generator) < self.probability
        kept = sample_uniform((count,), generator) < self.offset_keep_prob
        both = torch.cat((displacement * moved[:, None], kept[:, None]), dim=-1).to(images.device)
        return both[:, :3], both[:, 3]

    def _intrinsics(self, batch: Batch, view: str, images: Tensor) -> Tensor:
        """Camera matrices ``(B, 3, 3)`` of a view, from the batch or else the field of view."""
        known = batch.get("intrinsics", {})
        height, width = images.shape[-2:]
        if view in known:
            if view not in self._checked:
                _check_intrinsics(known[view], view, height, width)
                self._checked.add(view)
            return known[view]
        fov = self.fov.get(view) if isinstance(self.fov, dict) else self.fov
        if fov is None:
            raise ValueError(
                f"ViewpointPerturbation: no camera matrix of view {view!r}: the batch has those of "
                f"{sorted(known)}, and `fov` is {self.fov}. Use demonstrations that store "
                "intrinsics, or set fov to the camera's field of view in degrees."
            )
        matrix = torch.from_numpy(camera_matrix(fov, height, width))
        return matrix.to(images.device).expand(len(images), 3, 3)


def _depth(batch: Batch, view: str) -> Tensor:
    """Depth ``(B, h, w)`` of a view, for moving its camera."""
    known = batch.get("depth", {})
    if view not in known or "history" in batch:
        got = f"a history and depth of {sorted(known)}" if "history" in batch else sorted(known)
        raise ValueError(
            f"ViewpointPerturbation.max_radial: expected the depth of view {view!r} in the batch "
            f"and no history, got {got}. Read depth with data.depth from demonstrations that have "
            "it (`e0 collect maniskill --depth true`), or leave max_radial out."
        )
    return known[view]


def is_on_gripper(view: str) -> bool:
    """Whether a view's camera is on the robot's hand, by its name."""
    return any(word in view.lower() for word in ON_GRIPPER)


def _check_intrinsics(intrinsics: Tensor, view: str, height: int, width: int) -> None:
    """Refuse camera matrices for images of another size.

    Raises:
        ValueError: If a principal point is more than a tenth of an edge away from the middle, or
            a focal length is not positive.
    """
    focal = torch.stack((intrinsics[:, 0, 0], intrinsics[:, 1, 1]), dim=-1)
    centre = intrinsics[:, :2, 2]
    edges = centre.new_tensor([width, height])
    fits = (focal > 0).all(dim=-1) & ((centre / edges - 0.5).abs() <= 0.1).all(dim=-1)
    if not fits.all():
        got = intrinsics[~fits][0].tolist()
        raise ValueError(
            f"intrinsics of view {view!r}: expected a principal point near ({width / 2:g}, "
            f"{height / 2:g}) for images of {height} x {width} pixels, got {got}. Scale the matrix "
            "as the images were scaled, or drop it and set ViewpointPerturbation.fov."
        )


def _side_by_side(original: Tensor, warped: Tensor) -> Tensor:
    """The first images in a row, above their warps, ``(3, 2·h, n·w)``."""
    rows = (torch.cat(tuple(images[:LOGGED_IMAGES]), dim=-1) for images in (original, warped))
    return torch.cat(tuple(rows), dim=-2)


def _log_image(loggers: Iterable[Logger], name: str, image: Tensor, step: int) -> None:
    """Log an image ``(3, h, w)`` to every logger that takes images, such as wandb's."""
    for logger in loggers:
        writer: Any = getattr(logger, "experiment", None)
        if hasattr(logger, "log_image"):
            logger.log_image(name, [image.permute(1, 2, 0).cpu().numpy()], step=step)
        elif hasattr(writer, "add_image"):
            writer.add_image(name, image, step)
