"""Faults: damaged files, killed processes, full disks, concurrent runs, hostile clients."""
