"""Config files that compose: callbacks add up, and each setting must be one of the chosen model.

jsonargparse merges config files from left to right, but a later list replaces an earlier one, and
settings of a class that is replaced later are dropped silently. Both are mended here, before it
parses the command line.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import UnionType
from typing import Any

from jsonargparse import get_loader
from lightning.pytorch.utilities import rank_zero_info

from e0_lightning.cli.errors import unknown_option
from e0_lightning.cli.options import Option
from e0_lightning.comparison.experiment_files import find_experiment

CALLBACKS = "--trainer.callbacks"


@dataclass(frozen=True)
class ConfigFile:
    """One ``--config`` of a command line.

    Args:
        name: As given.
        tree: Its content.
        is_changed: Whether the content is not that of the file any more.
    """

    name: str
    tree: dict[str, Any]
    is_changed: bool = False

    @property
    def model_class(self) -> str | None:
        """Class path of the model; None for an overlay, which changes the model of other files."""
        model = self.tree.get("model")
        return model.get("class_path") if isinstance(model, dict) else None

    @property
    def model_settings(self) -> dict[str, Any]:
        """Constructor arguments of the model that the file sets."""
        model = self.tree.get("model")
        settings = model.get("init_args") if isinstance(model, dict) else None
        return settings if isinstance(settings, dict) else {}

    def without_model(self) -> ConfigFile:
        """The same file without its model."""
        return ConfigFile(
            self.name, {key: value for key, value in self.tree.items() if key != "model"}
        )


def read_config(name: str) -> ConfigFile:
    """Read a config file, which may be one of the shipped experiments, or YAML text.

    Raises:
        ValueError: If there is no such file or it holds no mapping.
    """
    text = name if is_text(name) else find_experiment(name).read_text()
    try:
        tree = get_loader("yaml")(text)
    except Exception as error:
        raise ValueError(f"{name}: expected YAML, got an error: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{name}: expected a mapping of options, got {type(tree).__name__}.")
    return ConfigFile(name, tree)


def is_text(name: str) -> bool:
    """Whether a ``--config`` is YAML text in place of a file."""
    return name.lstrip().startswith("{") or "\n" in name


def compose(options: Sequence[Option]) -> list[Option]:
    """Rewrite options so that jsonargparse gives config files the meaning they have here.

    Callbacks of a file are added to those of earlier files and replace those of the same class;
    ``callbacks: null`` removes all. As an option, ``--trainer.callbacks`` replaces them all. An
    option of a model or data module may be ``null``, however deep it is.

    Raises:
        ValueError: If a file cannot be read, or an overlay sets what the chosen model has not.
    """
    files = {o.value: read_config(o.value) for o in options if o.name == "--config" and o.value}
    files = {file.name: file for file in skip_absent_parts([*files.values()])}
    settings = [_as_file(option, files) for option in options]
    check_settings([file for file in settings if file is not None], _model_option(options))
    callbacks: list[Any] = []
    composed = []
    for option in options:
        if option.name == "--config" and option.value:
            file = files[option.value]
            callbacks = add_callbacks(callbacks, file.tree)
            composed.append(_as_config(file, callbacks))
            continue
        if option.name.rstrip("+") == CALLBACKS and option.value is not None:
            given = _as_list(get_loader("yaml")(option.value))
            callbacks = [*callbacks, *given] if option.name.endswith("+") else given
        composed.append(_null(option) if _is_nested_null(option) else option)
    return composed


def add_callbacks(earlier: list[Any], tree: dict[str, Any]) -> list[Any]:
    """Callbacks of earlier files and of a file over them."""
    trainer = tree.get("trainer")
    if not _has_callbacks(tree) or not isinstance(trainer, dict):
        return earlier
    if trainer.get("callbacks", ...) is None:
        return []
    entries = _as_list(trainer.get("callbacks")) + _as_list(trainer.get("callbacks+"))
    replaced = {_class_name(entry) for entry in entries}
    return [entry for entry in earlier if _class_name(entry) not in replaced] + entries


def skip_absent_parts(files: Sequence[ConfigFile]) -> list[ConfigFile]:
    """Leave out settings of parts that the data module does not have, and say so.

    An overlay such as ``setting/paper.yaml`` sets ``data.episodes.n_action_steps``; a benchmark
    without ``episodes`` has nothing to apply it to.
    """
    present: set[str] = set()
    kept = []
    for file in files:
        data = file.tree.get("data")
        settings = data.get("init_args") if isinstance(data, dict) else None
        parts = {k: v for k, v in (settings or {}).items() if isinstance(v, dict)}
        present |= {name for name, part in parts.items() if "class_path" in part}
        absent = [n for n, part in parts.items() if "init_args" in part and n not in present]
        if absent and isinstance(data, dict):
            rest = {k: v for k, v in (settings or {}).items() if k not in absent}
            tree = {**file.tree, "data": {**data, "init_args": rest}}
            file = ConfigFile(file.name, tree, is_changed=True)
            rank_zero_info(f"{file.name}: data has no {', '.join(absent)} here; skipped.")
        kept.append(file)
    return kept


def check_settings(files: Sequence[ConfigFile], model_option: str | None = None) -> None:
    """Refuse overlays that set what the chosen model does not have.

    Args:
        files: In the order of the command line.
        model_option: Class of the model where it is chosen by an option.

    Raises:
        ValueError: If an overlay sets such a thing; the message names the classes that have it.
    """
    model = model_option or next((f.model_class for f in reversed(files) if f.model_class), None)
    for file in files:
        if model and not file.model_class:
            _check_tree(file, model, file.model_settings, _class_choices(files), "model")


def accepted_options(kind: object) -> list[str]:
    """Names of the constructor arguments of a class, through ``**kwargs`` to its bases."""
    names: dict[str, None] = {}
    for each in inspect.getmro(kind) if isinstance(kind, type) else ():
        if "__init__" not in vars(each) or each is object:
            continue
        parameters = [*inspect.signature(each.__init__).parameters.values()][1:]  # type: ignore[misc]
        keywords = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
        names |= {
            p.name: None
            for p in parameters
            if p not in keywords and p.kind is not inspect.Parameter.VAR_POSITIONAL
        }
        if not keywords:
            break
    return [*names]


def find_class(class_path: str) -> type | None:
    """A class by its path or, if it is public here, by its name; None where there is none."""
    import e0_lightning

    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module) if module else e0_lightning, name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def _check_tree(
    file: ConfigFile,
    class_path: str,
    settings: dict[str, Any],
    choices: dict[str, str],
    key: str,
) -> None:
    kind = find_class(class_path)
    if kind is None:
        return
    accepted = accepted_options(kind)
    for name, value in settings.items():
        if name not in accepted:
            raise ValueError(
                f"{file.name} sets {key}.{name}, but {unknown_option(class_path, name)} Leave it "
                "out, or choose a class that has the option."
            )
        inner = value.get("init_args", value) if isinstance(value, dict) else None
        own = value.get("class_path") if isinstance(value, dict) else None
        bound = _annotated_class(kind, name)
        if own and bound and not _is_kind_of(own, bound):
            raise ValueError(
                f"{file.name} sets {key}.{name} to {own}, but {kind.__name__} expects a "
                f"{bound.rpartition('.')[2]}. Leave it out, or choose another {key}."
            )
        chosen = own or choices.get(f"{key}.{name}") or bound
        if isinstance(inner, dict) and chosen and "class_path" not in inner:
            _check_tree(file, chosen, inner, choices, f"{key}.{name}")


def _class_choices(files: Sequence[ConfigFile]) -> dict[str, str]:
    """The last class path given for each part of the model, such as ``model.sampler``.

    A file that names the model's class starts anew: parts of an earlier model are dropped with it.
    """
    choices: dict[str, str] = {}

    def collect(settings: dict[str, Any], key: str) -> None:
        for name, value in settings.items():
            if isinstance(value, dict):
                if isinstance(value.get("class_path"), str):
                    choices[f"{key}.{name}"] = value["class_path"]
                inner = value.get("init_args", value)
                if isinstance(inner, dict):
                    collect(inner, f"{key}.{name}")

    for file in files:
        if file.model_class:
            kind = find_class(file.model_class)
            kept = accepted_options(kind)
            choices = {k: v for k, v in choices.items() if _is_kept(k, v, kind, kept)}
        collect(file.model_settings, "model")
    return choices


def _is_kept(key: str, class_path: str, kind: type | None, accepted: list[str]) -> bool:
    """Whether a part chosen for an earlier model is one that the next model can have."""
    name = key.split(".")[1]
    if kind is None or name not in accepted:
        return False
    bound = _annotated_class(kind, name)
    return key.count(".") > 1 or bound is None or _is_kind_of(class_path, bound)


def _is_kind_of(class_path: str, bound: str) -> bool:
    """Whether a class is a subclass of another; also if either cannot be imported."""
    part, base = find_class(class_path), find_class(bound)
    return part is None or base is None or issubclass(part, base)


def _annotated_class(kind: type, name: str) -> str | None:
    """Class path of the type of a constructor argument, None where it is no class of ours."""
    for each in inspect.getmro(kind):
        init = vars(each).get("__init__")
        if init is None or name not in inspect.signature(init).parameters:
            continue
        hint = typing.get_type_hints(init).get(name)
        is_union = typing.get_origin(hint) in (typing.Union, UnionType)
        for part in typing.get_args(hint) if is_union else (hint,):
            if isinstance(part, type) and part.__module__.startswith("e0_lightning."):
                return f"{part.__module__}.{part.__qualname__}"
        return None
    return None


def _model_option(options: Sequence[Option]) -> str | None:
    given = [o.value for o in options if o.name in ("--model", "--model.class_path") and o.value]
    return given[-1] if given else None


def _has_callbacks(tree: dict[str, Any]) -> bool:
    trainer = tree.get("trainer")
    return isinstance(trainer, dict) and bool({"callbacks", "callbacks+"} & trainer.keys())


def _as_config(file: ConfigFile, callbacks: list[Any]) -> Option:
    """A config file as it is, or as text if it has callbacks or was changed."""
    tree = file.tree
    if _has_callbacks(tree):
        trainer = {key: value for key, value in tree["trainer"].items() if key != "callbacks+"}
        tree = {**tree, "trainer": {**trainer, "callbacks": callbacks or None}}
    elif not file.is_changed:
        path = file.name if is_text(file.name) else str(find_experiment(file.name))
        return Option("--config", path)
    return Option("--config", json.dumps(tree))


def _as_list(entries: Any) -> list[Any]:
    if entries is None:
        return []
    return list(entries) if isinstance(entries, list) else [entries]


def _class_name(entry: Any) -> str:
    class_path = entry.get("class_path", "") if isinstance(entry, dict) else entry
    return str(class_path).rpartition(".")[2]


def _is_nested_null(option: Option) -> bool:
    area, _, key = option.name.removeprefix("--").partition(".")
    return option.value == "null" and area in ("model", "data") and bool(key)


def _null(option: Option) -> Option:
    """``--model.encoder.vision.crop=null`` as a config, where jsonargparse accepts it."""
    return Option("--config", json.dumps(_nested(option, None)))


def _nested(option: Option, value: Any) -> dict[str, Any]:
    """An option with dots, of a model or data module, as the tree of a config file."""
    area, *keys = option.name.removeprefix("--").split(".")
    if keys[0] != "init_args":
        keys.insert(0, "init_args")
    tree: Any = value
    for key in reversed([area, *keys]):
        tree = {key: tree}
    return dict(tree)


def _as_file(option: Option, files: dict[str, ConfigFile]) -> ConfigFile | None:
    """What an option sets, as a config file; None for options that set nothing of the model."""
    if option.name == "--config" and option.value:
        return files[option.value]
    if not option.name.startswith("--model.") or option.name.endswith((".help", ".class_path")):
        return None
    return ConfigFile(option.name, _nested(option, option.value))
