"""A run that is killed and resumed ends with the weights of an uninterrupted one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader

from tiny_policy import InMemoryDemos, make_batch, new_policy, quiet_trainer, tiny_settings

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
EXPERIMENT = HERE.parent / "experiments" / "maniskill.yaml"


class KillAfterSecondValidation(Callback):
    """Kills its own process when training continues after the second validation of an epoch.

    From outside, the moment would depend on the machine. The last checkpoint is two steps old.
    """

    def __init__(self):
        self.validations = 0

    def on_validation_end(self, trainer, pl_module):
        self.validations += not trainer.sanity_checking

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.validations == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(demos: Path, folder: Path, *options: str) -> int:
    """Train on 12 batches of an epoch, validate after every third, save after every fourth."""
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
  init_args: {{demos: [{demos}], batch_size: 2, num_workers: 1, val_fraction: 0.4, episodes: null}}
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


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_to_the_bit(demos, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert fit(demos, whole) == 0
    kill = "--trainer.callbacks+=test_resume.KillAfterSecondValidation"
    assert fit(demos, resumed, kill) == -signal.SIGKILL
    assert load(resumed)["global_step"] == 4
    assert fit(demos, resumed, f"--ckpt_path={resumed / 'last.ckpt'}") == 0
    assert_equal_weights(load(resumed), load(whole), step=12)


POLICIES = {
    "E0": tiny_settings(),
    "E0Hybrid": tiny_settings("E0Hybrid", process={"num_bins": 32}),
    "FlowMatching": tiny_settings("FlowMatching"),
    "MaskedDiffusion": tiny_settings("MaskedDiffusion", process={"num_bins": 32}),
    "stochastic depth": tiny_settings("Regression"),
}
POLICIES["stochastic depth"]["init_args"]["encoder"]["vision"]["model_args"] = {
    "drop_path_rate": 0.5
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_run_resumed_in_memory_equals_an_uninterrupted_one_to_the_bit(name, tmp_path):
    class OneBatch(InMemoryDemos):
        """The same batch at every step: a plain DataLoader does not resume within an epoch."""

        def train_dataloader(self):
            return DataLoader([make_batch()] * 8, batch_size=None)

    def fit_in_memory(folder, seed, resume=None):
        torch.manual_seed(seed)  # without effect on training
        saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        callbacks = [EMAWeightAveraging(decay=0.5), saving]
        trainer = quiet_trainer(tmp_path, max_steps=6, callbacks=callbacks)
        policy = new_policy(POLICIES[name])
        trainer.fit(policy, datamodule=OneBatch(), ckpt_path=resume, weights_only=True)
        return torch.load(folder / "step=6.ckpt", weights_only=True)

    whole = fit_in_memory(tmp_path / "whole", seed=1)
    half = tmp_path / "whole" / "step=3.ckpt"
    assert_equal_weights(fit_in_memory(tmp_path / "resumed", seed=2, resume=half), whole, step=6)


def assert_equal_weights(resumed: dict, whole: dict, step: int) -> None:
    assert whole["global_step"] == resumed["global_step"] == step
    for kind in ("state_dict", "current_model_state"):  # averaged weights, and current ones
        assert whole[kind].keys() == resumed[kind].keys()
        assert all(torch.equal(whole[kind][name], value) for name, value in resumed[kind].items())
    assert torch.equal(*(run["averaging_state"]["n_averaged"] for run in (whole, resumed)))
