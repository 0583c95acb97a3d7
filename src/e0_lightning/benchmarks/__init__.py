"""Measurements of speed, memory and behaviour: `e0 benchmark`."""
