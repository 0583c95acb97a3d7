"""Demonstrations from an expert."""
