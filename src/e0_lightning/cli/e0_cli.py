"""`e0`: all verbs that are not Lightning's; each is a function, imported when it is run."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import e0_lightning
from e0_lightning.cli.errors import errors_as_text, explain, near_misses
from e0_lightning.cli.options import import_from_working_directory, parse_options, take_flag


class Verb(NamedTuple):
    """A verb of the command line.

    Args:
        function: ``module:function`` within the package; its docstring and signature are the help.
        help: One line.
        takes_experiment: Whether the options that describe an experiment to ``lightning fit`` are
            collected in its argument ``experiment``.
        takes_paths: Whether leading words are files, collected in its argument ``paths``.
    """

    function: str
    help: str
    takes_experiment: bool = False
    takes_paths: bool = False


VERBS: dict[str, Verb] = {
    "collect aloha": Verb(
        "collection.aloha:collect", "record demonstrations of a scripted expert in gym-aloha"
    ),
    "collect droid": Verb(
        "collection.droid:collect", "record ManiSkill's motion planner in DROID's format"
    ),
    "collect libero": Verb(
        "collection.libero:collect", "record demonstrations of a scripted expert in LIBERO"
    ),
    "collect maniskill": Verb(
        "collection.maniskill:collect", "record demonstrations of ManiSkill's motion planner"
    ),
    "collect pusht": Verb(
        "collection.pusht:collect", "convert the published human demonstrations of PushT"
    ),
    "inspect": Verb(
        "inspection.inspect:inspect",
        "describe demonstration files, and what of them hurts training",
        takes_paths=True,
    ),
    "init": Verb(
        "cli.init:init", "write a config that trains on demonstration files", takes_paths=True
    ),
    "serve": Verb("cli.serving:serve", "serve a checkpoint over WebSocket"),
    "export": Verb("export.export:export", "write a policy as an ONNX graph"),
    "compare": Verb(
        "comparison.compare:compare", "train and evaluate variants under one budget", True
    ),
    "merge": Verb("evaluation.report.merge:merge", "merge evaluation reports"),
    "import-weights": Verb(
        "cli.import_weights:import_weights", "convert weights of PaliGemma, π0 or π0.5", True
    ),
    "benchmark all": Verb(
        "cli.all_benchmarks:benchmark_all", "one table of what is reached beside limits", True
    ),
    "benchmark data": Verb("benchmarks.data:benchmark", "reading speed of demonstrations"),
    "benchmark serve": Verb(
        "cli.serving:benchmark_serving", "latency and throughput of the policy server"
    ),
    "benchmark droid": Verb(
        "benchmarks.droid:benchmark", "openpi's DROID client in ManiSkill, with late responses"
    ),
    "benchmark faults": Verb(
        "benchmarks.faults.benchmark:benchmark",
        "damaged files, killed processes, full disks, hostile clients",
    ),
    "benchmark libero": Verb("benchmarks.libero:benchmark", "build and render LIBERO's tasks"),
    "benchmark libero-expert": Verb(
        "benchmarks.libero_expert:benchmark", "success of LIBERO's scripted expert, task by task"
    ),
    "benchmark memory": Verb(
        "cli.costs:benchmark_memory", "parameters and memory of a training step", True
    ),
    "benchmark latency": Verb(
        "cli.costs:benchmark_latency", "time of a training step and of inference", True
    ),
    "benchmark multimodality": Verb(
        "cli.multimodality:benchmark_multimodality",
        "policies on demonstrations with two modes",
        True,
    ),
    "benchmark chunk-boundary": Verb(
        "benchmarks.chunk_boundary:benchmark", "jumps between action chunks in real time"
    ),
}

EXPERIMENT_OPTIONS = ("--config", "--seed_everything", "--trainer", "--data", "--model")
"""Options of ``lightning fit`` that describe an experiment, themselves or their parts."""


def e0(args: list[str] | None = None) -> None:
    """Run a verb of ``e0``; user errors end it with one paragraph.

    Args:
        args: Words after ``e0``; None takes them from the command line.
    """
    argv, debug = take_flag(sys.argv[1:] if args is None else args, "--debug")
    if argv == ["--version"]:
        print(f"e0-lightning {e0_lightning.__version__}")
        return
    import_from_working_directory()
    with errors_as_text("e0", debug):
        name, rest = split_verb(argv)
        if name in VERBS:
            run_verb(name, rest)
        else:
            print(overview(name))


def split_verb(argv: list[str]) -> tuple[str, list[str]]:
    """The verb of a command line and the arguments after it.

    Returns:
        The verb, a group of verbs such as ``benchmark``, or an empty name where help is asked for.

    Raises:
        ValueError: If there is no such verb.
    """
    name = ""
    for index, word in enumerate(argv):
        if word in ("-h", "--help"):
            return name, argv[index:]
        name = f"{name} {word}".strip()
        if name in VERBS:
            return name, argv[index + 1 :]
        if not any(verb.startswith(f"{name} ") for verb in VERBS):
            raise ValueError(
                f"expected a verb, got {name}.{near_misses(name, VERBS)} `e0 --help` lists them."
            )
    return name, []


def overview(group: str = "") -> str:
    """Help: every verb, or those of a group, with one line each."""
    verbs = {name: verb for name, verb in VERBS.items() if name.startswith(group)}
    width = max(map(len, verbs))
    lines = [f"  {name:<{width}}  {verb.help}" for name, verb in verbs.items()]
    return "\n".join(
        [
            "usage: e0 VERB [OPTIONS]",
            "",
            *lines,
            "",
            "`e0 VERB --help` describes a verb. `--version` and `--debug` (tracebacks) go with e0;",
            "training and evaluation are the verbs of `lightning`.",
        ]
    )


def run_verb(name: str, argv: list[str]) -> None:
    """Parse the options of a verb by the signature of its function, and call it.

    Raises:
        ValueError: If the options cannot be used.
    """
    from jsonargparse import ArgumentParser

    function = load_function(name)
    parser = ArgumentParser(prog=f"e0 {name}", description=function.__doc__, exit_on_error=False)
    parser.add_function_arguments(function, as_positional=False, fail_untyped=False)
    argv = [with_underscores(word) for word in argv]
    if VERBS[name].takes_experiment:
        argv = collect_experiment(argv)
    if VERBS[name].takes_paths:
        argv = collect_paths(argv)
    try:
        arguments = parser.instantiate_classes(parser.parse_args(argv))
    except ArgumentError as error:
        names = [action.dest for action in parser._actions]
        raise ValueError(explain(str(error), names)) from error
    function(**arguments.as_dict())


def load_function(name: str) -> Callable[..., Any]:
    """The function of a verb."""
    module, _, function = VERBS[name].function.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(f"e0_lightning.{module}"), function)
    return loaded


def with_underscores(word: str) -> str:
    """An option written with dashes, ``--api-key``, as the argument ``--api_key``."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def collect_experiment(argv: list[str]) -> list[str]:
    """Turn the options that describe an experiment into the list ``--experiment``."""
    options = parse_options(argv)
    described = [o for o in options if o.name.split(".")[0].rstrip("+") in EXPERIMENT_OPTIONS]
    if not described:
        return argv
    rest = [option.word for option in options if option not in described]
    return [*rest, f"--experiment={json.dumps([option.word for option in described])}"]


def collect_paths(argv: list[str]) -> list[str]:
    """Turn the leading arguments, which are files, into the list ``--paths``."""
    options = parse_options(argv)
    paths = [option.word for option in options if not option.name]
    rest = [option.word for option in options if option.name]
    return [f"--paths={json.dumps(paths)}", *rest] if paths else rest
