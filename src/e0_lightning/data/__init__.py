"""Demonstrations on disk to batches."""

from e0_lightning.data.block_sampler import BlockSampler, ResumableLoader
from e0_lightning.data.chunk_dataset import ChunkDataset, Demo
from e0_lightning.data.datamodule import DemoSource, RobotDemos
from e0_lightning.data.formats.base import DemoInfo, DemoReader, open_demos
from e0_lightning.data.formats.maniskill import ManiSkillReader

__all__ = [
    "BlockSampler",
    "ChunkDataset",
    "Demo",
    "DemoInfo",
    "DemoReader",
    "DemoSource",
    "ManiSkillReader",
    "ResumableLoader",
    "RobotDemos",
    "open_demos",
]
