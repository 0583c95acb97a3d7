"""Demonstrations on disk to batches."""
