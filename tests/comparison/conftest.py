"""A config file of the toy benchmark, and `lightning` without new processes."""

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
  class_path: comparison_toy.ToyDemos
  init_args: {episodes: {class_path: comparison_toy.ToyEpisodes}}
model: {class_path: comparison_toy.ToyPolicy}
"""


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "benchmark.yaml"
    path.write_text(BENCHMARK)
    return str(path)


@pytest.fixture
def commands(monkeypatch):
    """Run `lightning` in this process; returns the list of its command lines."""
    executed = []

    def run_here(command, stdout, stderr, **options):
        words = command[3:]
        executed.append(words)
        try:
            run(words)
        except (Exception, SystemExit) as error:  # the parser exits
            stdout.write(f"{error}\n")
            return subprocess.CompletedProcess(command, 1)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run_here)
    return executed
