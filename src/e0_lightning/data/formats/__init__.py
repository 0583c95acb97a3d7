"""Formats of demonstration files, a reader each."""
