"""Demonstrations from an expert."""

from e0_lightning.collection.maniskill import collect

__all__ = ["collect"]
