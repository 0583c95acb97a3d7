"""`lightning`: Lightning's verbs for any module and data module. `e0`: everything else."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from jsonargparse import ArgumentParser, auto_cli
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningCLI

import e0_lightning  # noqa: F401  # bare class names in YAML are those already imported
from e0_lightning.collection.maniskill import collect as collect_maniskill
from e0_lightning.data.benchmark import benchmark as benchmark_data
from e0_lightning.data.inspect import inspect

COMMANDS: dict[str, Any] = {
    "collect": {"maniskill": collect_maniskill},
    "benchmark": {"data": benchmark_data},
}


def main() -> None:
    """Run ``lightning fit | validate | test | predict``."""
    run()


def run(args: ArgsType = None) -> LightningCLI:
    """Do what a ``lightning`` command line says; models and data modules go by class path.

    Args:
        args: The words after ``lightning``; None takes them from the command line.

    Returns:
        The finished command line, with its trainer, model and data module.
    """
    # Said once for every fit with weight averaging; it concerns sharded models only.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with")
    return LightningCLI(
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
    if args[:1] == ["inspect"]:
        parser = ArgumentParser(prog="e0 inspect", description=inspect.__doc__)
        parser.add_argument("paths", nargs="+", help="HDF5 files, or addresses fsspec knows")
        inspect(parser.parse_args(args[1:]).paths)
    else:
        auto_cli(COMMANDS, args=args, as_positional=False, prog="e0")
