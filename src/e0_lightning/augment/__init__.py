"""Perturbations of training batches: camera viewpoints and the robot's state."""

from e0_lightning.augment.callback import ViewpointPerturbation
from e0_lightning.augment.state import StatePerturbation
from e0_lightning.augment.viewpoint import SphericalWarp

__all__ = ["SphericalWarp", "StatePerturbation", "ViewpointPerturbation"]
