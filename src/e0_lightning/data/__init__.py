"""Demonstrations on disk to batches."""

from e0_lightning.data.block_sampler import BlockSampler, ResumableLoader
from e0_lightning.data.chunk_dataset import ChunkDataset, Demo
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.base import DemoInfo, DemoReader
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.sources import DemoSource

__all__ = [
    "BlockSampler",
    "ChunkDataset",
    "Demo",
    "DemoInfo",
    "DemoReader",
    "DemoSource",
    "ResumableLoader",
    "RobotDemos",
    "open_demos",
]
