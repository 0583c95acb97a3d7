"""Runs as processes of their own: signals, and several that start together."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow


def start(words, folder):
    command = [sys.executable, "-m", "e0_lightning.cli", "fit", *words]
    return subprocess.Popen(
        [*command, f"--trainer.default_root_dir={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def checkpointing(steps):
    arguments = f"{{every_n_train_steps: {steps}, save_last: true}}"
    return f"--trainer.callbacks=[{{class_path: ModelCheckpoint, init_args: {arguments}}}]"


def test_sigterm_ends_a_run_with_status_143(tiny_experiment, tmp_path):
    words = [*tiny_experiment, checkpointing(2), "--trainer.max_steps=100000"]
    process = start([*words, "--trainer.limit_val_batches=0"], tmp_path)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output


@pytest.mark.timeout(600)
def test_runs_that_start_together_have_a_folder_each(tiny_experiment, tmp_path):
    words = [*tiny_experiment, checkpointing(1), "--trainer.max_steps=1"]
    runs = [start([*words, f"--seed_everything={seed}"], tmp_path) for seed in range(3)]
    outputs = [process.communicate(timeout=500)[0] for process in runs]
    assert [process.returncode for process in runs] == [0, 0, 0], outputs
    versions = {path.parents[1].name for path in tmp_path.rglob("last.ckpt")}
    assert versions == {"version_0", "version_1", "version_2"}
