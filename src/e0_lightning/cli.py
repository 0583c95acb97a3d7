"""The `lightning` and `e0` commands."""
