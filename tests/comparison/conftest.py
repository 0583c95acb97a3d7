"""A benchmark file of the cheap world, and `lightning` without the price of a new process."""

import subprocess

import pytest

from e0_lightning.cli import run

BENCHMARK = """
trainer:
  accelerator: cpu
  max_steps: 8
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {every_n_train_steps: 4, save_last: true}
    - class_path: RolloutReport
data:
  class_path: comparison_world.Tosses
  init_args: {episodes: {class_path: comparison_world.Throws}}
model: {class_path: comparison_world.Guess}
"""


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "benchmark.yaml"
    path.write_text(BENCHMARK)
    return str(path)


@pytest.fixture
def commands(monkeypatch):
    """The command lines that were run, in this process."""
    known = []

    def here(command, stdout, stderr, **options):
        words = command[3:]
        known.append(words)
        try:
            run(words)
        except (Exception, SystemExit) as error:  # the parser exits
            stdout.write(f"{error}\n")
            return subprocess.CompletedProcess(command, 1)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", here)
    return known
