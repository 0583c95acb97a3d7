"""A run that is killed and resumed ends with the weights of one that never was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

BIN = Path(sys.executable).parent
EXPERIMENT = Path(__file__).parent.parent / "experiments" / "maniskill.yaml"


def start(demos: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    config = folder / "overrides.yaml"
    folder.mkdir(exist_ok=True)
    config.write_text(
        f"""
trainer:
  max_steps: 12
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  limit_val_batches: 0
  default_root_dir: {folder}
  callbacks:
    - {{class_path: EMAWeightAveraging, init_args: {{decay: 0.9}}}}
    - {{class_path: ViewpointPerturbation}}
    - class_path: ModelCheckpoint
      init_args: {{dirpath: {folder}, every_n_train_steps: 4, save_top_k: -1, filename: "{{step}}"}}
data:
  init_args: {{demos: [{demos}], batch_size: 2, num_workers: 1, validation: 0.4, episodes: null}}
"""
    )
    return subprocess.Popen(
        [BIN / "lightning", "fit", f"--config={EXPERIMENT}", f"--config={config}", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def test_killed_and_resumed_is_never_killed_bit_for_bit(demos, tmp_path):
    assert start(demos, tmp_path / "whole").wait(timeout=200) == 0

    killed = start(demos, tmp_path / "killed")
    saved = tmp_path / "killed" / "step=4.ckpt"
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed" / "step=8.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    resumed = start(demos, tmp_path / "resumed", f"--ckpt_path={saved}")
    assert resumed.wait(timeout=200) == 0

    whole, again = (
        torch.load(tmp_path / name / "step=12.ckpt", weights_only=True)
        for name in ("whole", "resumed")
    )
    for kind in ("state_dict", "current_model_state"):  # averaged weights, and those trained
        assert whole[kind].keys() == again[kind].keys()
        assert all(torch.equal(whole[kind][name], again[kind][name]) for name in whole[kind])
    assert torch.equal(*(run["averaging_state"]["n_averaged"] for run in (whole, again)))
