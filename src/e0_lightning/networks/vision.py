"""Image tokens from any timm backbone, and the embedding of a camera's displacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from e0_lightning.networks.positions import sine_cosine_grid
from e0_lightning.types import ViewSize


class VisionEncoder(nn.Module):
    """Tokens of a timm backbone, shared by all views.

    A convolutional backbone gives one token per cell of its feature map, with fixed 2-D sine-cosine
    positions added; a transformer gives its patch tokens, which include positions.

    Args:
        name: Any name of ``timm.list_models()``.
        pretrained: Load timm's weights for that name.
        stage: Use the feature map of this stage and drop later ones; None uses the last features.
        size: Image size in pixels at the input of the backbone: the side of a square, or
            ``[height, width]``. Images of another shape are stretched to it.
        crop: View name to ``[top, left, side]`` or ``[top, left, height, width]`` in pixels of the
            input image; other views are not cropped. After a viewpoint warp, a crop moves in true
            pixels instead of black ones.
        model_args: Further arguments of ``timm.create_model``.

    Raises:
        ValueError: If timm has no such model, or the model no such stage, argument or image size.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        stage: int | None = None,
        size: int | list[int] = 224,
        crop: dict[str, list[int]] | None = None,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(name.split(".")[0]):
            family = name.split("_")[0]
            raise ValueError(
                f"vision.name: expected a model of timm, got {name!r}. Similar names: "
                f"{timm.list_models(f'*{family}*')[:8]}; timm.list_models() lists all."
            )
        height, width = [size, size] if isinstance(size, int) else size
        args = dict(model_args or {})
        if stage is None:
            args["num_classes"] = 0
        else:
            args |= {"features_only": True, "out_indices": (stage,)}
        if name.startswith(("vit", "deit", "eva", "beit")):
            args.setdefault("img_size", (height, width))
        try:
            self.backbone: Any = timm.create_model(name, pretrained=pretrained, **args)
        except IndexError as error:
            raise ValueError(
                f"vision.stage: expected a stage of {name!r} counted from 0, got {stage} "
                f"({error}). Set null for the last features."
            ) from error
        except TypeError as error:
            raise ValueError(
                f"vision.model_args: expected arguments of {name!r}, got {args}: {error}. Families "
                "of models differ: leave out those that this one does not accept, or set null."
            ) from error
        self.stage, self.size, self.crop = stage, (height, width), dict(crop or {})
        settings = resolve_model_data_config(self.backbone)
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"]).view(3, 1, 1), persistent=False)
        try:
            self.width, self.is_map = self._measure()
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"vision.size: expected an image size that {name!r} accepts, got {height} x "
                f"{width} pixels ({error}). Use multiples of its patch size."
            ) from error

    def check_views(self, views: Mapping[str, ViewSize]) -> None:
        """Check the crops against the views of the observation.

        Args:
            views: View name to the size of its images.

        Raises:
            ValueError: If a crop is of another view, or leaves the image.
        """
        for view, crop in self.crop.items():
            if view not in views:
                raise ValueError(
                    f"vision.crop: expected views among {list(views)}, got {view!r}. Name one of "
                    "them, or set vision.crop to null."
                )
            _check_crop(view, crop, views[view].height, views[view].width)

    def forward(self, images: Tensor, view: str = "") -> Tensor:
        """Encode the images of one view.

        Args:
            images: ``(B, 3, h, w)`` uint8, or float in [0, 1].
            view: Its name, which selects the crop.

        Returns:
            ``(B, T, width)``.
        """
        features = self._features(self.prepare(images, view))
        if not self.is_map:
            return features
        _, height, width, channels = features.shape
        return features.flatten(1, 2) + sine_cosine_grid(height, width, channels).to(features)

    def prepare(self, images: Tensor, view: str = "") -> Tensor:
        """Crop, resize and standardize images to ``(B, 3, *size)`` float."""
        if view in self.crop:
            top, left, height, width = _check_crop(view, self.crop[view], *images.shape[-2:])
            images = images[..., top : top + height, left : left + width]
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if scaled.shape[-2:] != self.size:
            scaled = F.interpolate(scaled, self.size, mode="bilinear", antialias=True)
        return (scaled - self.mean) / self.std

    def _features(self, images: Tensor) -> Tensor:
        """Backbone output: ``(B, h, w, C)`` from a feature map, ``(B, T, C)`` from patch tokens."""
        features: Tensor
        if self.stage is not None:
            features = self.backbone(images)[0]
        else:
            features = self.backbone.forward_features(images)
        if features.ndim == 3:
            return features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        if getattr(self.backbone, "output_fmt", None) == "NHWC":
            return features
        return features.permute(0, 2, 3, 1)

    @torch.no_grad()
    def _measure(self) -> tuple[int, bool]:
        """Token width and whether tokens are cells of a feature map, by a forward pass."""
        was_training = self.backbone.training
        self.backbone.eval()
        weight = next(self.backbone.parameters())
        features = self._features(weight.new_zeros(1, 3, *self.size))
        self.backbone.train(was_training)
        return features.shape[-1], features.ndim == 4


def _check_crop(
    view: str, crop: Sequence[int], image_height: int, image_width: int
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop, which must be inside the image."""
    if len(crop) in (3, 4):
        top, left, height, width = (*crop, crop[-1]) if len(crop) == 3 else crop
        if top >= 0 and left >= 0 and top + height <= image_height and left + width <= image_width:
            return top, left, height, width
    raise ValueError(
        f"vision.crop[{view!r}]: expected [top, left, side] or [top, left, height, width] inside "
        f"the image of {image_height} x {image_width} pixels, got {list(crop)}."
    )


class RelativeSphericalEmbedding(nn.Module):
    """Embedding of a camera's displacement δ, ``z' = z + f_proj(δ)`` (E0, eq. 8 and 18-19).

    Zero at initialization, so that a pretrained backbone is unchanged at step 0.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(3, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, offset: Tensor) -> Tensor:
        """Embed δ = (radial, horizontal, vertical), ``(B, 3)``, in radians, to ``(B, W)``."""
        out: Tensor = self.project(offset)
        return out
