"""`lightning`: Lightning's verbs for any module and data module. `e0`: everything else."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, auto_cli
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import ArgsType, LightningCLI
from lightning.pytorch.utilities import rank_zero_warn

import e0_lightning  # noqa: F401  # bare class names in YAML are those already imported
from e0_lightning.collection.libero import collect as collect_libero
from e0_lightning.collection.maniskill import collect as collect_maniskill
from e0_lightning.comparison.compare import compare
from e0_lightning.comparison.modes import modes as benchmark_modes
from e0_lightning.data.benchmark import benchmark as benchmark_data
from e0_lightning.data.inspect import inspect
from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.policies.latency import benchmark_policy
from e0_lightning.policies.memory import describe, estimate, measure, random_batch
from e0_lightning.serving.batching import Limits
from e0_lightning.serving.benchmark import benchmark as benchmark_actor
from e0_lightning.serving.server import serve as serve_actor
from e0_lightning.simulation.merge import merge as merge_reports
from e0_lightning.weights.filling import fill
from e0_lightning.weights.openpi import plan as plan_import
from e0_lightning.weights.shards import find_shards, read_names, read_tensors


class CommandLine(LightningCLI):
    """Lightning's, where the model that was asked for is the one that runs.

    Lightning lets the settings in a checkpoint win over the command line without a word, so that
    ``--model.init_args.sampler`` next to ``--ckpt_path`` would do nothing. Here the command line
    wins, and every difference is named.
    """

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
        tree = {"class_path": saved.pop("_class_path"), "init_args": saved}
        own, theirs = _leaves(given["model"].as_dict()), _leaves(tree)
        for name in sorted(own.keys() | theirs.keys() - {"init_args._instantiator"}):
            if own.get(name) != theirs.get(name):
                rank_zero_warn(
                    f"model.{name} is {own.get(name)} as asked for; "
                    f"the checkpoint was trained with {theirs.get(name)}."
                )


def _leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Dotted names and values of a tree of dicts, without what is not set."""
    if not isinstance(tree, dict):
        return {} if tree is None else {name: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{name}.{key}" if name else key)
    return leaves


def main() -> None:
    """Run ``lightning fit | validate | test | predict``."""
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
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        args=args,
        run=start,
    )


def import_weights(source: str, experiments: list[str], out: str) -> None:
    """Write the first checkpoint of a policy with the weights of PaliGemma, π0 or π0.5.

    ``lightning fit`` starts from it by ``--model.weights OUT``. Where the experiment's
    demonstrations are at hand, it also holds their contract and statistics, and can act.

    Args:
        source: A safetensors file, a folder of them, or a repository of the Hugging Face hub.
        experiments: Files that describe the policy, each over the one before; also given one by
            one, ``--config FILE``.
        out: The checkpoint to write.
    """
    shards = find_shards(source)
    plan = plan_import(read_names(shards))
    built = _build(experiments)
    print(fill(dict(built.model.named_parameters()), read_tensors(shards), plan))
    try:
        built.model.meet(built.datamodule)
    except (ValueError, OSError) as error:
        print(f"No contract and no statistics, so it cannot act before `lightning fit`: {error}")
    # A run's callbacks have nothing to say about weights that were not trained.
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(built.model)
    trainer.save_checkpoint(out, weights_only=True)


def benchmark_memory(experiments: list[str]) -> None:
    """Print parameters by part and the memory of a training step; measured too on a GPU.

    Args:
        experiments: Files, each over the one before; also given one by one, ``--config FILE``.
    """
    with torch.device("meta"):
        built = _build(experiments)
    policy, data = built.model, built.datamodule
    policy.configure_model()
    batch = random_batch(policy, data.views, data.batch_size)
    trainer: Any = built.trainer
    averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    halved = "16" in str(trainer.precision)
    estimated, measured = estimate(policy, batch, averaged, halved), None
    if torch.cuda.is_available():
        real = _build(experiments).model.cuda()
        real.configure_model()
        measured = measure(real, random_batch(real, data.views, data.batch_size))
    print(describe(policy, estimated, measured))


def benchmark_speed(experiments: list[str]) -> None:
    """Print the time of a training step and of a decision, by part; on a GPU where there is one.

    Args:
        experiments: Files, each over the one before; also given one by one, ``--config FILE``.
    """
    built = _build(experiments)
    policy = built.model.cuda() if torch.cuda.is_available() else built.model
    policy.configure_model()
    print(benchmark_policy(policy, built.datamodule.views, built.datamodule.batch_size))


def _build(experiments: list[str]) -> LightningCLI:
    """Trainer, policy and data module of experiment files, without a run.

    Raises:
        ValueError: If the files describe no policy.
    """
    built = run([f"--config={path}" for path in experiments], start=False)
    if not isinstance(built.model, Policy):
        raise ValueError(
            f"{experiments} describe a {type(built.model).__name__}; a policy is needed, such as "
            "experiments/maniskill.yaml with experiments/backbone/paligemma.yaml has."
        )
    return built


def serve(
    checkpoint: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    layout: str = "plain",
    prompt: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Let robots and benchmarks use a policy; on a GPU where there is one.

    openpi clients connect to ws://host:port, vla-eval to ws://host:port/vla-eval; /healthz, /health
    and /metrics answer plain HTTP.

    Args:
        checkpoint: Written by the trainer.
        host: Address to listen at; 0.0.0.0 is all of this machine's.
        port: Port; 0 takes a free one.
        api_key: Key that clients must send, `Authorization: Api-Key KEY` or ws://any:KEY@host:port.
        layout: Where clients keep what the policy wants: plain, maniskill, libero, vlabench, droid,
            aloha, or a YAML file.
        prompt: Instruction for requests without one.
        limits: Batch, wait, queue, frame size and grace.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    serve_actor(_load(checkpoint), host, port, api_key, layout, prompt, limits)


def benchmark_serving(
    checkpoint: str | None = None,
    clients: int = 32,
    seconds: float = 10.0,
    max_batch: int = 32,
    layout: str = "plain",
) -> None:
    """Print latency and throughput of openpi clients on loopback, batching on against off.

    Args:
        checkpoint: Written by the trainer; without one, an echo whose pass takes 20 ms, by which
            every single answer is checked against its own request.
        clients: Clients at once, each asking again when it is answered.
        seconds: Length of each of the two runs.
        max_batch: Largest batch with batching on.
        layout: Where the clients keep their observations.
    """
    actor = None if checkpoint is None else _load(checkpoint)
    benchmark_actor(actor, clients, seconds, max_batch, layout)


COMMANDS: dict[str, Any] = {
    "collect": {"libero": collect_libero, "maniskill": collect_maniskill},
    "compare": compare,
    "merge": merge_reports,
    "serve": serve,
    "import-weights": import_weights,
    "benchmark": {
        "data": benchmark_data,
        "modes": benchmark_modes,
        "serve": benchmark_serving,
        "memory": benchmark_memory,
        "speed": benchmark_speed,
    },
}


def _underscored(word: str) -> str:
    """Options may be written with dashes, ``--api-key``."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def _folded(words: list[str]) -> list[str]:
    """Files given one by one, ``--config a --config b``, become the list ``--experiments``."""
    rest, files = [], []
    following = iter(words)
    for word in following:
        name, equals, value = word.partition("=")
        if name == "--config":
            files.append(value if equals else next(following, ""))
        else:
            rest.append(word)
    return [*rest, f"--experiments={json.dumps(files)}"] if files else rest


def _load(checkpoint: str) -> Policy:
    return load_policy(checkpoint, "cuda" if torch.cuda.is_available() else "cpu")


def e0(args: list[str] | None = None) -> None:
    """Run ``e0 collect | inspect | compare | serve | import-weights | benchmark``.

    Users' errors come without a traceback.
    """
    try:
        _e0(sys.argv[1:] if args is None else args)
    except (ValueError, ModuleNotFoundError) as error:
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
