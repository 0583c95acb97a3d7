"""The command lines: `lightning` in `training`, `e0` in `verbs`, its verbs beside them."""

from e0_lightning.cli.e0_cli import e0
from e0_lightning.cli.lightning_cli import main, run

__all__ = ["e0", "main", "run"]
