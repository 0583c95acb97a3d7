"""`lightning`: Lightning's verbs for any module and data module."""

from __future__ import annotations

import logging
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, cast

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

import e0_lightning
from e0_lightning.cli.errors import errors_as_text, explain
from e0_lightning.cli.from_checkpoint import announce_changes, checkpoint_option, take_model
from e0_lightning.cli.options import import_from_working_directory, parse_options, take_flag
from e0_lightning.cli.overlays import compose
from e0_lightning.cli.run_folder import SaveConfig, claimed_run_folder, stay_in_run_folder
from e0_lightning.cli.sizes import fill_sizes, missing_sizes, share_state_dim
from e0_lightning.policies.base import Policy
from e0_lightning.training.callbacks.prediction_writer import PredictionWriter

SIGTERM_STATUS = 143
"""Exit status of a run that SIGTERM has ended, as schedulers expect it."""

_DESCRIPTION = (
    "Lightning's verbs for policies and any other module. Config files compose from left to right; "
    "those that ship with e0-lightning are found by name, such as --config maniskill.yaml. "
    "--version prints the version, --debug the traceback of an error."
)

_ADVERTISEMENTS = ("Tip:", "litlogger", "litmodels", "tensorboardX", "LOCAL_RANK: 0")
"""Log lines of Lightning that concern no run."""

_UNHELPFUL_WARNINGS = (
    "LightningCLI's args parameter",  # the arguments are those of the command line
    "You're using the WeightAveraging callback with",  # concerns sharded models only
    ".*isinstance.treespec, LeafSpec",
    ".*does not have many workers",  # perf/data_wait_fraction measures what this guesses
    "Checkpoint directory .* exists and is not empty",  # a resumed run stays in its folder
    "The dataloader, val_dataloader .*, does not have many workers",
)


class CommandLine(LightningCLI):
    """Lightning's command line, with composed config files, sizes from the data and checkpoints.

    ``--ckpt_path`` takes the model from the checkpoint in every verb; overlays and ``--model``
    options change it, and each change is announced.
    """

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Compose config files and parse.

        Raises:
            ValueError: If an option or a file cannot be used.
        """
        if isinstance(args, dict | Namespace):
            super().parse_arguments(parser, args)
            return
        options = parse_options(sys.argv[1:] if args is None else args)
        self._is_folder_given = any(o.name == "--trainer.default_root_dir" for o in options)
        self._checkpoint = checkpoint_option(options)
        if self._checkpoint is not None:
            options = take_model(options, self._checkpoint)
        argv = [option.word for option in compose(options)]
        try:
            self.config = parser.parse_args(argv)
        except ArgumentError as error:
            raise ValueError(explain(str(error), self._option_names(argv[:1]))) from error

    def instantiate_classes(self) -> None:
        """Build the data module first: it has the sizes that the model's options leave out.

        Raises:
            ValueError: If sizes are left out and there is no data module to infer them from.
        """
        section = self.config.get(str(self.subcommand), self.config)
        model, data = section.get("model"), section.get("data")
        datamodule = None
        if data is not None:
            built = self._parser(self.subcommand).instantiate_classes(Namespace(data=data))
            datamodule = built["data"]
        share_state_dim(model)
        if missing := missing_sizes(model):
            if not hasattr(datamodule, "spec"):
                raise ValueError(
                    f"model: expected {', '.join(missing)}, or a data module with a spec to infer "
                    "them from; got neither. Give the sizes by --model options, or --data."
                )
            fill_sizes(model, cast(Any, datamodule).spec)
        # Lightning caches what it takes hyperparameters from; it is read again with the sizes.
        vars(self).pop("config_dump", None)
        section["data"] = None
        super().instantiate_classes()
        section["data"], self.datamodule = data, datamodule
        vars(self).pop("config_dump", None)
        if self._checkpoint is not None and model is not None:
            announce_changes(self._checkpoint, model.as_dict())

    def before_predict(self) -> None:
        """Write the action chunks of a policy to a file: no caller receives them."""
        if isinstance(self.model, Policy):
            cast(Any, self.trainer).callbacks.append(PredictionWriter())

    def _parse_ckpt_path(self) -> None:
        """The checkpoint's model is part of the options already."""

    def _run_subcommand(self, subcommand: str) -> None:
        if self._checkpoint is not None and not self._is_folder_given:
            stay_in_run_folder(self.trainer, self._checkpoint)
        with claimed_run_folder(self.trainer):
            super()._run_subcommand(subcommand)

    def _option_names(self, verb: Sequence[str]) -> list[str]:
        """Options such as ``trainer.max_steps``, for near misses."""
        parsers = getattr(self, "_subcommand_parsers", {})
        parser: Any = next((parsers[word] for word in verb if word in parsers), self.parser)
        return [action.dest for action in parser._actions]


def main() -> None:
    """Run ``lightning fit | validate | test | predict``."""
    import_from_working_directory()
    argv, debug = take_flag(sys.argv[1:], "--debug")
    if argv == ["--version"]:
        print(f"lightning {version('lightning')} (e0-lightning {e0_lightning.__version__})")
        return
    sys.argv[1:] = argv
    with errors_as_text("lightning", debug), _quiet():
        try:
            run(argv)
        except SIGTERMException:
            sys.exit(SIGTERM_STATUS)
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error


def run(args: ArgsType = None, start: bool = True) -> LightningCLI:
    """Run a ``lightning`` command line; models and data modules are given by class path.

    Args:
        args: Words after ``lightning``; None takes them from the command line.
        start: Run a verb. Otherwise the arguments are options, without a verb, and all is built
            but not run.

    Returns:
        The finished command line, with its trainer, model and data module.

    Raises:
        ValueError: If the arguments are invalid.
    """
    # A class is found by its bare name in YAML if it has been imported.
    for name in e0_lightning.__all__:
        getattr(e0_lightning, name)
    return CommandLine(
        pl.LightningModule,
        # None: a module may bring its own loaders, and a data module may be any class.
        datamodule_class=None,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        parser_kwargs={"exit_on_error": False, "description": _DESCRIPTION},
        args=args,
        run=start,
    )


def build_experiment(experiment: list[str]) -> LightningCLI:
    """Trainer, policy and data module of an experiment, without a run.

    Args:
        experiment: Words after ``lightning fit``, such as ``--config FILE``.

    Raises:
        ValueError: If they describe no policy.
    """
    built = run(experiment, start=False)
    if not isinstance(built.model, Policy):
        raise ValueError(
            f"expected an experiment with a policy, such as --config maniskill.yaml; got "
            f"{' '.join(experiment)}, whose model is a {type(built.model).__name__}."
        )
    return built


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out advertisements, and warnings that concern no user of this command line."""
    loggers = [logging.getLogger(name) for name in _LIGHTNING_LOGGERS]
    with warnings.catch_warnings():
        for message in _UNHELPFUL_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.addFilter(_is_useful)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_is_useful)


_LIGHTNING_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning_utilities.core.rank_zero",
)


def _is_useful(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not any(part in text for part in _ADVERTISEMENTS)
