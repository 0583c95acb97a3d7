"""`e0`: all that is not one of Lightning's verbs, each a function with a docstring."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from jsonargparse import ArgumentParser, auto_cli

from e0_lightning.benchmarks.data import benchmark as benchmark_data
from e0_lightning.benchmarks.multimodality import modes as benchmark_modes
from e0_lightning.cli.costs import benchmark_memory, benchmark_speed
from e0_lightning.cli.import_weights import import_weights
from e0_lightning.cli.lightning_cli import find_modules_here
from e0_lightning.cli.seam import benchmark_seam
from e0_lightning.cli.serving import benchmark_serving, serve
from e0_lightning.collection.libero import collect as collect_libero
from e0_lightning.collection.maniskill import collect as collect_maniskill
from e0_lightning.comparison.compare import compare
from e0_lightning.data.inspect import inspect
from e0_lightning.evaluation.report.merge import merge as merge_reports

COMMANDS: dict[str, Any] = {
    "collect": {"libero": collect_libero, "maniskill": collect_maniskill},
    "compare": compare,
    "merge": merge_reports,
    "serve": serve,
    "import-weights": import_weights,
    "benchmark": {
        "data": benchmark_data,
        "serve": benchmark_serving,
        "modes": benchmark_modes,
        "memory": benchmark_memory,
        "speed": benchmark_speed,
        "seam": benchmark_seam,
    },
}

DESCRIBING = ("--config", "--seed_everything", "--trainer", "--data", "--model")
"""Options of ``lightning fit`` that say what is trained and how, themselves or their parts."""


def _underscored(word: str) -> str:
    """Options may be written with dashes, ``--api-key``."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def _folded(words: list[str]) -> list[str]:
    """What describes an experiment to ``lightning fit`` becomes the list ``--experiment``."""
    rest: list[str] = []
    described: list[str] = []
    following = iter(words)
    for word in following:
        name, equals, _ = word.partition("=")
        if name.split(".")[0] in DESCRIBING:
            described.append(word if equals else f"{word}={next(following, '')}")
        else:
            rest.append(word)
    return [*rest, f"--experiment={json.dumps(described)}"] if described else rest


def e0(args: list[str] | None = None) -> None:
    """Run ``e0 collect | inspect | compare | serve | import-weights | benchmark``.

    Users' errors come without a traceback.
    """
    find_modules_here()
    try:
        _e0(sys.argv[1:] if args is None else args)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"e0: {error}")
    except RuntimeError as error:
        # Ours say what to do; those of PyTorch and others are worth their traceback.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals.get("__name__", "").startswith("e0_lightning."):
            raise
        sys.exit(f"e0: {error}")


def _e0(args: list[str]) -> None:
    args = [_underscored(word) for word in args]
    if args[:1] in (["compare"], ["import-weights"], ["benchmark"]):
        args = _folded(args)
    if args[:1] == ["inspect"]:
        parser = ArgumentParser(prog="e0 inspect", description=inspect.__doc__)
        parser.add_argument("paths", nargs="+", help="HDF5 files, or addresses fsspec knows")
        inspect(parser.parse_args(args[1:]).paths)
    else:
        auto_cli(COMMANDS, args=args, as_positional=False, prog="e0")
