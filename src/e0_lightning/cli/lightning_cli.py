"""`lightning`: Lightning's verbs for any module and data module."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import ArgsType, LightningCLI
from lightning.pytorch.utilities import rank_zero_warn

import e0_lightning  # bare class names in YAML are those already imported
from e0_lightning.training.callbacks.prediction_writer import PredictionWriter
from e0_lightning.training.constructor_tree import comparable_trees


class CommandLine(LightningCLI):
    """Lightning's, where the model that was asked for is the one that runs.

    Lightning lets the settings in a checkpoint win over the command line without a word, so that
    ``--model.init_args.sampler`` next to ``--ckpt_path`` would do nothing. Here the command line
    wins, and every difference is named.
    """

    def before_predict(self) -> None:
        """Have the chunks of our policies written down; they are returned to nobody."""
        if isinstance(self.model, e0_lightning.Policy):
            cast(Any, self.trainer).callbacks.append(PredictionWriter())

    def _parse_ckpt_path(self) -> None:
        verb = self.config.get("subcommand")
        given = verb and self.config.get(verb)
        path = given and given.get("ckpt_path")
        if not path or not Path(path).is_file():
            return
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        saved = dict(checkpoint.get("hyper_parameters", {}))
        if "_class_path" not in saved:
            return
        saved.pop("_instantiator", None)
        class_path, model = saved.pop("_class_path"), given["model"].as_dict()
        asked, saved = comparable_trees(model.get("init_args", {}), saved)
        own = _leaves({"class_path": model["class_path"], "init_args": asked})
        theirs = _leaves({"class_path": class_path, "init_args": saved})
        for name in sorted(own.keys() | theirs.keys()):
            if own.get(name) != theirs.get(name):
                rank_zero_warn(
                    f"model.{name} is {own.get(name)} as asked for; "
                    f"the checkpoint was trained with {theirs.get(name)}."
                )


def _leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Dotted names and values of a tree of dicts, without what is not set; a tuple is a list."""
    if not isinstance(tree, dict):
        return {} if tree is None else {name: [*tree] if isinstance(tree, tuple) else tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{name}.{key}" if name else key)
    return leaves


def find_modules_here() -> None:
    """Let classes be named that lie in the working directory, as ``python -m`` does.

    Last, so that nothing installed is hidden by them.
    """
    sys.path.append(os.getcwd())


def main() -> None:
    """Run ``lightning fit | validate | test | predict``."""
    find_modules_here()
    run()


def run(args: ArgsType = None, start: bool = True) -> LightningCLI:
    """Do what a ``lightning`` command line says; models and data modules go by class path.

    Args:
        args: The words after ``lightning``; None takes them from the command line.
        start: Run a verb; else the words are options without one, and all is built only.

    Returns:
        The finished command line, with its trainer, model and data module.
    """
    # Said once for every fit with weight averaging; it concerns sharded models only.
    warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with")
    return CommandLine(
        LightningModule,
        # None, so that a module may bring loaders of its own; a data module is any class.
        datamodule_class=None,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        args=args,
        run=start,
    )
