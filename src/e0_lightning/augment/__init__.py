"""Viewpoint perturbation."""
