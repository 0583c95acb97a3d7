"""Demonstrations on disk to batches.

Imports nothing: environments read the facts of demonstration formats in worker processes, which
must not load Lightning.
"""
