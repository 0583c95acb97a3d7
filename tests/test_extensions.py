"""Six extensions from outside of the package, at most 25 lines each, named by class path."""

import importlib
import inspect
import sys

import h5py
import numpy as np
import pytest
import yaml

from e0_lightning.cli import run
from e0_lightning.types import ViewSize

RESEARCH = '''
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from torch import nn

from e0_lightning import (
    ActionExpert, ActionSample, ActionSpace, DemoReader, OneHotDiffusion, Policy, PrefixEncoder,
    Sampler, VisionEncoder,
)
from e0_lightning.networks.action_projection import ActionProjection
from e0_lightning.random import sample_uniform


class MeanPolicy(Policy):
    """Regress the chunk from learned queries, under a squared error."""

    def __init__(
        self, encoder: PrefixEncoder, expert: ActionExpert, actions: ActionSpace, **common: Any
    ) -> None:
        super().__init__(encoder, actions, **common)
        self.expert = expert.connect(encoder.language, diffusion_time=False)
        sizes = actions.horizon, expert.width, actions.width
        self.projection = ActionProjection(nn.Identity(), *sizes)

    def losses(self, batch, prefix):
        error = (self.sample(prefix).actions - batch["actions"]).square()
        return {"squared_error": error[self.actions.loss_mask(batch["valid"])].mean()}

    def sample(self, prefix, action_prefix=None):
        self.refuse_action_prefix(action_prefix)
        positions = self.projection.positions
        queries = positions.new_zeros(prefix.batch_size, *positions.shape)
        refined = self.expert(self.projection.embed(queries), prefix)
        return ActionSample(self.projection.project_out(refined))


class PatchEncoder(VisionEncoder):
    """One linear projection per patch."""

    def __init__(self, width: int = 16, patch: int = 16) -> None:
        nn.Module.__init__(self)
        self.width, self.crop = width, {}
        self.backbone = nn.Conv2d(3, width, patch, patch)

    def forward(self, images, view=""):
        return self.backbone(images.float() / 255).flatten(2).mT


class SharpenedSampler(Sampler):
    """Re-noise the posterior mean of a sharpened distribution."""

    def __init__(self, power: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.power = power

    def step(self, process, x, logits, tau, next_tau, generator):
        mean = process.mean(self.power * logits)
        noise = process.noise(x, mean, tau)
        return torch.lerp(noise, mean, next_tau[:, None, None])


class UniformNoise(OneHotDiffusion):
    """Uniform noise of unit variance instead of Gaussian noise."""

    def prior(self, shape, generator=None, device=None):
        values = sample_uniform((*shape, self.num_bins), generator, device)
        return 12**0.5 * (values - 0.5)


class Blackout(Callback):
    """Blacken a share of the training images."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability, self.count = probability, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for images in batch["images"].values():
            chosen = torch.rand(len(images)) < self.probability
            images[chosen] = 0
            self.count += int(chosen.sum())


class ArmReader(DemoReader):
    """A group per demonstration: ``action``, ``joints`` and ``camera``."""

    control_mode = "joint_position"

    def lengths(self):
        return {name: len(demo["action"]) for name, demo in self.file.items()}

    def read_actions(self, demo, start, stop):
        return self.file[f"{demo}/action"][start:stop]

    def read_states(self, demo, start, stop):
        return {"joints": self.file[f"{demo}/joints"][start:stop]}

    def read_images(self, demo, start, stop):
        return {"front": self.file[f"{demo}/camera"][start:stop]}
'''

LANGUAGE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.fixture
def research(tmp_path, monkeypatch):
    """A researcher's module beside the run, which can be imported."""
    (tmp_path / "my_research.py").write_text(RESEARCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_research", raising=False)
    yield importlib.import_module("my_research")
    sys.modules.pop("my_research", None)


@pytest.fixture
def config(tmp_path):
    """An experiment on a file in a format of its own, with the classes of this package."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "arm.h5", "w") as file:
        for number in range(3):
            demo = file.create_group(f"episode_{number}")
            demo["action"] = rng.random((20, 3), np.float32)
            demo["joints"] = rng.random((20, 3), np.float32)
            demo["camera"] = rng.integers(0, 255, (20, 32, 32, 3), np.uint8)
    source = {
        "path": str(tmp_path / "arm.h5"),
        "instruction": "go",
        "reader": "my_research.ArmReader",
    }
    return {
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path),
        },
        "data": {
            "class_path": "RobotDemos",
            "init_args": {
                "demos": [source],
                "views": ["front"],
                "state": ["joints"],
                "horizon": 4,
                "batch_size": 2,
                "num_workers": 0,
                "val_fraction": 0,
            },
        },
        "model": {
            "class_path": "E0",
            "init_args": {
                "encoder": {
                    "vision": {
                        "class_path": "VisionEncoder",
                        "init_args": {"name": "test_vit", "size": 32},
                    },
                    "language": {"config": LANGUAGE},
                },
                "expert": {"width": 16, "depth": 2, "heads": 2, "mlp": 32},
                "actions": {"normalizer": {"class_path": "QuantileNormalizer"}},
                "process": {"class_path": "OneHotDiffusion", "init_args": {"num_bins": 8}},
            },
        },
    }


def fit(config, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    finished = run(["fit", "--config", str(path)])
    assert finished.trainer.callback_metrics["train/loss"].isfinite()
    return finished


def test_policy(research, config, tmp_path):
    config["model"]["class_path"] = "my_research.MeanPolicy"
    del config["model"]["init_args"]["process"]
    assert type(fit(config, tmp_path).model) is research.MeanPolicy


def test_vision_encoder(research, config, tmp_path):
    vision = {"class_path": "my_research.PatchEncoder", "init_args": {"width": 8}}
    config["model"]["init_args"]["encoder"]["vision"] = vision
    assert fit(config, tmp_path).model.encoder.vision.width == 8


def test_sampler(research, config, tmp_path):
    sampler = {"class_path": "my_research.SharpenedSampler", "init_args": {"power": 3.0}}
    config["model"]["init_args"]["sampler"] = sampler
    finished = fit(config, tmp_path)
    batch = next(iter(finished.datamodule.train_dataloader()))
    assert finished.model.sampler.power == 3
    assert finished.model.eval().act(batch).isfinite().all()


def test_noise_process(research, config, tmp_path):
    process = {"class_path": "my_research.UniformNoise", "init_args": {"num_bins": 8}}
    config["model"]["init_args"]["process"] = process
    finished = fit(config, tmp_path)
    batch = next(iter(finished.datamodule.train_dataloader()))
    assert type(finished.model.process) is research.UniformNoise
    assert finished.model.eval().act(batch).isfinite().all()


def test_augmentation_callback(research, config, tmp_path):
    blackout = {"class_path": "my_research.Blackout", "init_args": {"probability": 1.0}}
    config["trainer"]["callbacks"] = [blackout]
    callbacks = fit(config, tmp_path).trainer.callbacks
    (callback,) = [each for each in callbacks if type(each) is research.Blackout]
    assert callback.count == 4


def test_reader(research, config, tmp_path):
    datamodule = fit(config, tmp_path).datamodule
    assert datamodule.spec.views == {"front": ViewSize(32, 32)}
    assert (datamodule.spec.state, datamodule.spec.action_dim) == ({"joints": 3}, 3)


@pytest.mark.parametrize(
    "name",
    ["MeanPolicy", "PatchEncoder", "SharpenedSampler", "UniformNoise", "Blackout", "ArmReader"],
)
def test_extensions_are_at_most_25_lines(research, name):
    assert len(inspect.getsource(getattr(research, name)).splitlines()) <= 25
