"""A policy and a data module that cost nothing, to compare variants by the real command line."""

import os

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from e0_lightning.types import EpisodeResult


class ToyPolicy(LightningModule):
    """Succeeds on seeds below its skill; its weight counts its training steps."""

    def __init__(self, skill: int = 3, bonus: int = 0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.skill = skill + bonus

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch, batch_idx):
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/action_l1", self.act(batch).abs().mean())

    def test_step(self, batch, batch_idx):
        return [EpisodeResult(task, seed, seed < self.skill, 1) for task, seed in batch]

    def act(self, observation):
        return self.weight.expand(len(observation["state"]), 2, 1)


class ToyEpisodes(LightningDataModule):
    """Episodes of two tasks."""

    def __init__(self, num_episodes: int = 5, num_envs: int = 1):
        super().__init__()
        self.num_episodes = num_episodes

    def test_dataloader(self):
        episodes = [[("push", seed), ("pull", seed)] for seed in range(self.num_episodes)]
        return DataLoader(episodes, batch_size=None, collate_fn=list)


class ToyDemos(LightningDataModule):
    """Empty observations, and episodes."""

    def __init__(self, episodes: ToyEpisodes | None = None):
        super().__init__()
        self.episodes = episodes
        self.batch_size = 2

    def train_dataloader(self):
        batch = {"images": {}, "instruction": ["go", "on"], "state": torch.zeros(2, 1)}
        return DataLoader([batch] * 4, batch_size=None)

    val_dataloader = train_dataloader

    def test_dataloader(self):
        return self.episodes.test_dataloader()


class FailOnce(Callback):
    """Raises at step 5, in the first run of a folder."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        flag = os.path.join(trainer.default_root_dir, "failed")
        if trainer.global_step == 5 and not os.path.exists(flag):
            open(flag, "w").close()
            raise OSError("power failure")
