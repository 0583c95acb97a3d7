"""Closed-loop evaluation: episodes as data modules, rollouts, results and reports."""
