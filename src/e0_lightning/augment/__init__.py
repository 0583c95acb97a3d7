"""Viewpoint perturbation."""

from e0_lightning.augment.callback import ViewpointPerturbation
from e0_lightning.augment.viewpoint import SphericalWarp

__all__ = ["SphericalWarp", "ViewpointPerturbation"]
