"""User errors of both command lines: one paragraph, with near misses, and no traceback."""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module

_USER_ERRORS = (ValueError, OSError, ModuleNotFoundError)
"""What this package and its dependencies raise for an input that they cannot use."""


@contextmanager
def errors_as_text(program: str, debug: bool = False) -> Iterator[None]:
    """End the program with one paragraph on standard error where a user error occurs.

    Anything else (a ``TypeError``, an error inside PyTorch) is a defect, and keeps its traceback.

    Args:
        program: Name of the command, put in front.
        debug: Keep every traceback.
    """
    try:
        yield
    except Exception as error:
        if debug or not _is_user_error(error):
            raise
        hint = "" if _is_ours(error) else " (--debug shows the traceback.)"
        sys.exit(f"{program}: {_text(error)}{hint}")


def near_misses(name: str, candidates: Iterable[str]) -> str:
    """``" Did you mean …?"``, empty where nothing is close."""
    close = difflib.get_close_matches(name, sorted(set(candidates)), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def cannot_import(class_path: str, error: Exception) -> str:
    """What to do about a class that cannot be imported."""
    return (
        f"{class_path}: cannot be imported ({error}). Run in the folder of its module, or add "
        "that folder to PYTHONPATH."
    )


def explain(message: str, candidates: Iterable[str] = ()) -> str:
    """A parser's error message as one paragraph.

    Args:
        message: jsonargparse's, of many lines where types are unions.
        candidates: Options of the command line, such as ``trainer.max_steps``.
    """
    keys = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    prefix = f"{keys}: " if keys else ""
    if text := _explain_option(message, [*candidates]):
        return text
    if text := _explain_class(message) or _explain_value(message):
        return prefix + text
    if "arguments are required: model" in message:
        return "no model: expected --config FILE or --model CLASS_PATH, or --ckpt_path CHECKPOINT."
    return message


def _explain_option(message: str, candidates: list[str]) -> str | None:
    """Options and verbs that do not exist."""
    if found := re.search(r"nrecognized arguments: --([^\s=]+)", message):
        return f"unknown option --{found[1]}.{_near_options(found[1], candidates)}"
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", message):
        option = f"{found[1]}.{found[2]}"
        return f"unknown option {option}.{_near_options(option, candidates)}"
    if found := re.search(r"invalid choice: '([^']+)' \(choose from (.*)\)", message):
        verbs = re.findall(r"[\w-]+", found[2])
        return f"expected one of {', '.join(verbs)}, got {found[1]}.{near_misses(found[1], verbs)}"
    found = re.search(r"Option '([^']+)' is not accepted", message)
    if found and "class_path" not in message:
        return f"unknown option {found[1]}.{_near_options(found[1], candidates)}"
    return None


def _explain_class(message: str) -> str | None:
    """Options that a class does not have, and classes that do not exist."""
    if groups := _last(r"class_path '([^']+)':\s+Option '([^']+)' is not accepted", message):
        return unknown_option(*groups)
    if groups := _last(r"Expected a dot import path string: (\S+)", message):
        return f"no class {groups[0]}.{near_misses(groups[0], _class_names())}"
    missing = r"class_path '([^']+)':\s+(No module named .*|module .* has no .*)"
    if groups := _last(missing, message):
        return _missing_class(groups[0])
    return None


def _explain_value(message: str) -> str | None:
    """Values of another type than expected."""
    message = re.sub(r"NestedArg\(key='[^']*', val='?(.*?)'?\)", r"\1", message)
    if groups := _last(r"Expected an? (.*)\. Got value: (.*)", message):
        return f"expected {_type_name(groups[0])}, got {groups[1]}."
    expected = [_type_name(kind) for kind in re.findall(r"- Expected an? (.*)", message)]
    if expected and (groups := _last(r"Given value: (.*)", message)):
        return f"expected {' or '.join(dict.fromkeys(expected))}, got {groups[0]}."
    return None


def unknown_option(class_path: str, option: str) -> str:
    """Why a class does not accept an option: a typo, or a setting of other classes."""
    import e0_lightning
    from e0_lightning.cli.overlays import accepted_options

    name = class_path.rpartition(".")[2]
    own = accepted_options(_find(class_path))
    first = option.partition(".")[0]
    close = near_misses(first, own)
    text = f"{name} has no option {option}."
    if close:
        return text + close
    public = {each: getattr(e0_lightning, each) for each in e0_lightning.__all__}
    owners = [
        each
        for each, value in public.items()
        if isinstance(value, type) and first in accepted_options(value)
    ]
    if owners:
        return f"{text} {first} is an option of {', '.join(owners)}."
    return f"{text} Its options: {', '.join(own)}."


def _is_user_error(error: Exception) -> bool:
    if isinstance(error, (*_USER_ERRORS, ArgumentError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if "Error(s) in loading state_dict" in str(error):
        return True
    return _is_ours(error)


def _is_ours(error: Exception) -> bool:
    """Whether this package raised an error, so that its message says what to do."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith("e0_lightning.")


def _text(error: Exception) -> str:
    text = explain(str(error)) if isinstance(error, ArgumentError) else str(error)
    return text.strip() or type(error).__name__


def _near_options(option: str, candidates: list[str]) -> str:
    """Near misses of an option with dots, or else of its first part."""
    first = [candidate.partition(".")[0] for candidate in candidates]
    return near_misses(option, candidates) or near_misses(option.partition(".")[0], first)


def _last(pattern: str, text: str) -> tuple[str, ...] | None:
    found: list[tuple[str, ...]] = [match.groups() for match in re.finditer(pattern, text)]
    return found[-1] if found else None


def _type_name(text: str) -> str:
    """``<class 'int'>`` is ``int``."""
    name = re.sub(r"<class '([^']+)'>", r"\1", text).replace("typing.", "")
    return "null" if name == "NoneType" else name


def _find(class_path: str) -> object:
    import e0_lightning

    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module) if module else e0_lightning, name, None)


def _missing_class(class_path: str) -> str:
    module, _, name = class_path.rpartition(".")
    try:
        found = import_module(module)
    except Exception as error:
        return cannot_import(class_path, error)
    return f"module {module} has no class {name}.{near_misses(name, vars(found))}"


def _class_names() -> set[str]:
    """Names that need no module in front of them."""
    import lightning.pytorch as pl

    import e0_lightning

    names = {*e0_lightning.__all__, *dir(pl.callbacks), *dir(pl.loggers)}
    return {name for name in names if name[0].isupper()}
