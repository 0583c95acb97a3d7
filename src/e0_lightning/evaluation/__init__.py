"""Closed-loop evaluation of an actor in environments."""
