"""Collection of demonstrations by scripted experts and motion planners."""

from e0_lightning.collection.maniskill import collect

__all__ = ["collect"]
