"""Policies side by side, under one budget and on the same seeds."""
