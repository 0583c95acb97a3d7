"""Demonstrations on disk to batches."""

from e0_lightning.data.demos import Demo, DemoFile, open_demos
from e0_lightning.data.maniskill import ManiSkillFile
from e0_lightning.data.robot_demos import DemoSource, RobotDemos
from e0_lightning.data.shuffle import BlockShuffle, ResumableLoader
from e0_lightning.data.windows import Episode, Windows

__all__ = [
    "BlockShuffle",
    "Demo",
    "DemoFile",
    "DemoSource",
    "Episode",
    "ManiSkillFile",
    "ResumableLoader",
    "RobotDemos",
    "Windows",
    "open_demos",
]
