"""Comparison of variants under one training budget and on the same episodes: `e0 compare`."""
