"""`--ckpt_path`: every verb takes the model from the checkpoint; what differs is announced.

Config files that describe a whole model (they name its class) give way to the checkpoint. Overlays
and ``--model`` options change the checkpoint's model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from e0_lightning.cli.options import Option
from e0_lightning.cli.overlays import ConfigFile, read_config
from e0_lightning.policies.checkpoint import untrusted_classes
from e0_lightning.training.checkpoint_file import read_checkpoint
from e0_lightning.training.constructor_tree import comparable_trees


def checkpoint_option(options: Sequence[Option]) -> str | None:
    """The checkpoint file of a command line; None where it names none, or a keyword as ``last``."""
    given = [option.value for option in options if option.name == "--ckpt_path"]
    return given[-1] if given and given[-1] and Path(given[-1]).is_file() else None


def saved_model(path: str) -> dict[str, Any] | None:
    """``class_path`` and ``init_args`` of the model that wrote a checkpoint; None if it has none.

    Raises:
        ValueError: If the file is no checkpoint.
    """
    settings = dict(read_checkpoint(path).get("hyper_parameters", {}))
    class_path = settings.pop("_class_path", None)
    settings.pop("_instantiator", None)
    return None if class_path is None else {"class_path": class_path, "init_args": settings}


def take_model(options: Sequence[Option], path: str) -> list[Option]:
    """Options with the checkpoint's model first, and without whole models of config files.

    Args:
        options: Of a command line, before they are composed.
        path: The checkpoint.
    """
    model = saved_model(path)
    if model is None:
        return [*options]
    _check_trust(model, options, path)
    files = [read_config(o.value) for o in options if o.name == "--config" and o.value]
    overlays = [file.model_settings for file in files if not file.model_class]
    overlaid = {name for settings in overlays for name in _leaves({"init_args": settings})}
    verb = [option for option in options[:1] if not option.name]
    changed: list[Option] = [*verb, Option("--config", json.dumps({"model": model}))]
    for option in options[len(verb) :]:
        file = read_config(option.value) if option.name == "--config" and option.value else None
        if file is not None and file.model_class:
            _announce_ignored(file, model, path, overlaid)
            rest = file.without_model().tree
            changed += [Option("--config", json.dumps(rest))] if rest else []
        else:
            changed.append(option)
    return changed


def _check_trust(model: dict[str, Any], options: Sequence[Option], path: str) -> None:
    """Refuse to import modules that a checkpoint names and the command line does not.

    Raises:
        ValueError: If there is such a module.
    """
    argv = [option.value for option in options if option.value and option.name != "--ckpt_path"]
    files = [read_config(o.value).tree for o in options if o.name == "--config" and o.value]
    named = {word.split(".")[0] for word in argv} | {
        class_path.split(".")[0] for file in files for class_path in untrusted_classes(file)
    }
    for class_path in untrusted_classes(model, sorted(named)):
        raise ValueError(
            f"{path}: expected classes of e0_lightning, got {class_path}, and importing it runs "
            "its code. If you trust it, name it too: --model CLASS_PATH, or the --config that the "
            "model was trained with."
        )


def announce_changes(path: str, model: dict[str, Any]) -> None:
    """Say how the model that runs differs from the checkpoint's.

    Args:
        path: The checkpoint.
        model: ``class_path`` and ``init_args`` of the model that runs.
    """
    saved = saved_model(path)
    if saved is not None:
        for name, own, theirs in differences(model, saved):
            rank_zero_warn(
                f"model.{name} is {own} by the command line; the checkpoint was trained with "
                f"{theirs}."
            )


def differences(model: dict[str, Any], saved: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted name and both values of every setting in which two models differ."""
    own_args, saved_args = comparable_trees(model.get("init_args", {}), saved["init_args"])
    own = _leaves({"class_path": _short(model["class_path"]), "init_args": own_args})
    theirs = _leaves({"class_path": _short(saved["class_path"]), "init_args": saved_args})
    names = sorted(own.keys() | theirs.keys())
    return [(n, own.get(n), theirs.get(n)) for n in names if own.get(n) != theirs.get(n)]


def _announce_ignored(
    file: ConfigFile, model: dict[str, Any], path: str, overlaid: set[str]
) -> None:
    """Say which settings of a file give way to the checkpoint's, but for those of overlays."""
    own = _leaves({"init_args": file.model_settings}) | {"class_path": _short(file.model_class)}
    saved = _leaves({**model, "class_path": _short(model["class_path"])})
    differing = [
        name
        for name, value in own.items()
        if name in saved.keys() - overlaid
        and not name.endswith("class_path")
        and saved[name] != value
    ]
    if own["class_path"] != saved["class_path"]:
        differing = ["class_path"]
    if differing:
        listed = ", ".join(f"{n} ({saved[n]}, not {own[n]})" for n in differing[:5])
        rank_zero_info(
            f"The model is that of {path}, not of {file.name}: {listed}"
            f"{' and more' if len(differing) > 5 else ''}. To change it, use --model options."
        )


def _short(class_path: Any) -> str:
    """Public classes go by two paths: that of the package and that of their module."""
    return str(class_path).rpartition(".")[2]


def _leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Dotted names and values of a tree of dicts, without unset ones; a tuple equals a list.

    ``init_args`` is left out of names, since files may leave it out too.
    """
    if not isinstance(tree, dict):
        return {} if tree is None else {name: [*tree] if isinstance(tree, tuple) else tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inner = name if key == "init_args" else f"{name}.{key}" if name else str(key)
        value = _short(value) if key == "class_path" and value is not None else value
        leaves |= _leaves(value, inner)
    return leaves
