"""The command lines: `lightning` in `training`, `e0` in `verbs`, its verbs beside them."""

from e0_lightning.cli.training import main, run
from e0_lightning.cli.verbs import e0

__all__ = ["e0", "main", "run"]
