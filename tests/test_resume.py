"""A run that is killed and resumed ends with the weights of one that never was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
EXPERIMENT = HERE.parent / "experiments" / "maniskill.yaml"


class Death(Callback):
    """Kills its run as the second validation in an epoch is over and training goes on.

    The run does it to itself, because from outside the moment would depend on the machine. No save
    is under way then, and the last one is two steps ago.
    """

    def __init__(self):
        self.validations = 0

    def on_validation_end(self, trainer, pl_module):
        self.validations += not trainer.sanity_checking

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.validations == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(demos: Path, folder: Path, *options: str) -> int:
    """Train on 12 of an epoch's 31 batches, validate after every third, save every fourth."""
    config = folder / "overrides.yaml"
    folder.mkdir(exist_ok=True)
    config.write_text(
        f"""
trainer:
  max_steps: 12
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  val_check_interval: 3
  limit_val_batches: 1
  default_root_dir: {folder}
  callbacks:
    - {{class_path: EMAWeightAveraging, init_args: {{decay: 0.9}}}}
    - {{class_path: ViewpointPerturbation}}
    - class_path: ModelCheckpoint
      init_args: {{dirpath: {folder}, every_n_train_steps: 4, save_last: true}}
data:
  init_args: {{demos: [{demos}], batch_size: 2, num_workers: 1, validation: 0.4, episodes: null}}
"""
    )
    return subprocess.run(
        [BIN / "lightning", "fit", f"--config={EXPERIMENT}", f"--config={config}", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=HERE,  # where the command finds this file
        timeout=200,
        check=False,
    ).returncode


def load(folder: Path) -> dict:
    return torch.load(folder / "last.ckpt", weights_only=True)


def test_killed_and_resumed_is_never_killed_bit_for_bit(demos, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert fit(demos, whole) == 0
    assert fit(demos, cut, "--trainer.callbacks+=test_resume.Death") == -signal.SIGKILL
    assert load(cut)["global_step"] == 4
    assert fit(demos, cut, f"--ckpt_path={cut / 'last.ckpt'}") == 0

    expected, found = load(whole), load(cut)
    assert expected["global_step"] == found["global_step"] == 12
    for kind in ("state_dict", "current_model_state"):  # averaged weights, and those trained
        assert expected[kind].keys() == found[kind].keys()
        assert all(torch.equal(expected[kind][name], found[kind][name]) for name in found[kind])
    assert torch.equal(*(run["averaging_state"]["n_averaged"] for run in (expected, found)))
