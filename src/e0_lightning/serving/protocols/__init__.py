"""Protocols of policy clients, one file each."""
