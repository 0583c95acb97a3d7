"""A policy and a world that cost nothing, to compare variants of by the real command line."""

import os

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from e0_lightning.types import EpisodeResult


class Guess(LightningModule):
    """Succeeds on seeds below its skill; its weight counts the steps it was trained for."""

    def __init__(self, skill: int = 3, bonus: int = 0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.skill = skill + bonus

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch, batch_idx):
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/action_error", self.act(batch).abs().mean())

    def test_step(self, batch, batch_idx):
        return [EpisodeResult(task, seed, seed < self.skill, 1) for task, seed in batch]

    def act(self, observation):
        return self.weight.expand(len(observation["state"]), 2, 1)


class Throws(LightningDataModule):
    """Episodes of two tasks."""

    def __init__(self, episodes: int = 5, num_envs: int = 1):
        super().__init__()
        self.episodes = episodes

    def test_dataloader(self):
        played = [[("push", seed), ("pull", seed)] for seed in range(self.episodes)]
        return DataLoader(played, batch_size=None, collate_fn=list)


class Tosses(LightningDataModule):
    """ChunkDataset of nothing, and episodes."""

    def __init__(self, episodes: Throws | None = None):
        super().__init__()
        self.throws = episodes
        self.batch_size = 2

    def train_dataloader(self):
        batch = {"images": {}, "instruction": ["go", "on"], "state": torch.zeros(2, 1)}
        return DataLoader([batch] * 4, batch_size=None)

    val_dataloader = train_dataloader

    def test_dataloader(self):
        return self.throws.test_dataloader()


class PowerCut(Callback):
    """Ends the process's work at a step, the first time."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        flag = os.path.join(trainer.default_root_dir, "cut")
        if trainer.global_step == 5 and not os.path.exists(flag):
            open(flag, "w").close()
            raise OSError("the power is gone")
