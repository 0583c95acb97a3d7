"""Formats of demonstration files: one reader each, and what they share."""
