"""Benchmarks of speed, memory and behavior: `e0 benchmark`."""
