"""`lightning`: Lightning's verbs for any module and data module. `e0`: everything else."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from jsonargparse import auto_cli
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningCLI

import e0_lightning  # noqa: F401  # bare class names in YAML are those already imported
from e0_lightning.collection.maniskill import collect as collect_maniskill
from e0_lightning.data.benchmark import benchmark as benchmark_data
from e0_lightning.data.inspect import inspect

COMMANDS: dict[str, Any] = {
    "collect": {"maniskill": collect_maniskill},
    "inspect": inspect,
    "benchmark": {"data": benchmark_data},
}


def main(args: ArgsType = None) -> None:
    """Run ``lightning fit | validate | test | predict``.

    Models and data modules are named by class path, those of this package by their bare names.
    """
    # Said once for every fit with weight averaging; it concerns sharded models only.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with")
    LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        args=args,
    )


def e0(args: list[str] | None = None) -> None:
    """Run ``e0 collect | inspect | benchmark``."""
    args = sys.argv[1:] if args is None else args
    if args and args[0] == "inspect":
        auto_cli(inspect, args=args[1:], prog="e0 inspect")
    else:
        auto_cli(COMMANDS, args=args, as_positional=False, prog="e0")
