"""Viewpoint perturbation."""

from e0_lightning.augment.spherical_warp import SphericalWarp
from e0_lightning.augment.viewpoint import ViewpointPerturbation

__all__ = ["SphericalWarp", "ViewpointPerturbation"]
