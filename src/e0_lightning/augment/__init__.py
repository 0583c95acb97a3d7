"""Augmentation of training images: viewpoints, crops and colours."""

from e0_lightning.augment.image_augmentation import ImageAugmentation
from e0_lightning.augment.spherical_warp import SphericalWarp
from e0_lightning.augment.viewpoint import ViewpointPerturbation

__all__ = ["ImageAugmentation", "SphericalWarp", "ViewpointPerturbation"]
