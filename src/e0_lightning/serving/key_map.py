"""Where a client keeps what a policy must be shown: layouts as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

Keys = str | list[str]
"""A key, or several of which the first one found counts; ``*`` stands for the spec's name."""


@dataclass(frozen=True)
class KeyMap:
    """Keys of a client's observations, and what it expects of the replies.

    Args:
        images: View of the spec to keys.
        state: State part of the spec to keys, or keys of all parts side by side.
        parts: State part to its first number and the one past its last, where what is side by side
            is not the spec's whole state in the spec's order.
        prompt: Keys of the instruction.
        mirrored: Views that arrive mirrored left to right and are turned back.
        inverted: State parts between 0 and 1 that arrive the other way around, as 1 - x.
        steps: Fewest and most steps of a chunk the client takes; None is no bound.
        state_format: How vla-eval calls the state.
        observation_params: What vla-eval's benchmark is asked to send.
        actions: Component to ``{dims, format, range}``, how vla-eval calls the actions.
    """

    images: dict[str, Keys] = field(default_factory=dict)
    state: dict[str, Keys] | Keys = field(default_factory=dict)
    parts: dict[str, list[int]] = field(default_factory=dict)
    prompt: Keys = "prompt"
    mirrored: list[str] = field(default_factory=list)
    inverted: list[str] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=lambda: [None, None])
    state_format: str = "raw"
    observation_params: dict[str, Any] = field(default_factory=dict)
    actions: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_key_map(name: str) -> KeyMap:
    """A layout by its name, or from a YAML file with the fields of :class:`KeyMap`.

    Raises:
        ValueError: If there is no such layout, or the file has other fields.
    """
    import yaml

    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"{name}: no such file; --layout takes a name or a YAML file.")
        found = yaml.safe_load(path.read_text())
    else:
        known = yaml.safe_load(Path(__file__).with_name("keymaps.yaml").read_text())
        if name not in known:
            raise ValueError(
                f"No layout {name!r}; there are: {', '.join(known)}. Name one of them, or a YAML "
                "file of your own."
            )
        found = known[name]
    wanted = [item.name for item in fields(KeyMap)]
    if not isinstance(found, dict) or not set(found) <= set(wanted):
        raise ValueError(f"{name}: found {describe_keys(found)}, wanted only: {', '.join(wanted)}.")
    return KeyMap(**found)


def listed(keys: Keys) -> list[str]:
    """One key or several, as a list."""
    return [keys] if isinstance(keys, str) else list(keys)


def find_keys(places: Mapping[str, Keys], name: str, what: str) -> list[str]:
    """The keys under which a layout keeps what the spec calls ``name``.

    Raises:
        ValueError: If the layout has no place for it.
    """
    if name not in places and "*" not in places:
        raise ValueError(
            f"The policy wants the {what} {name!r}, this layout has {', '.join(places) or 'none'}. "
            f"Write a layout with a key for it ({name}: …) and give it as --layout mine.yaml."
        )
    return [key.replace("*", name) for key in listed(places.get(name, places.get("*", "")))]


_MISSING = object()


def find(message: dict[Any, Any], keys: list[str], what: str) -> tuple[str, Any]:
    """The first of several keys that a message has, and its value.

    Raises:
        ValueError: If it has none of them.
    """
    for key in keys:
        found = _look_up(message, key)
        if found is not _MISSING:
            return key, found
    raise ValueError(
        f"No {' or '.join(map(repr, keys))}: found {describe_keys(message)}, wanted {what}."
    )


def has(message: dict[Any, Any], key: str) -> bool:
    """Whether a message has a key, or a path of them."""
    return _look_up(message, key) is not _MISSING


def _look_up(message: Any, path: str) -> Any:
    """The value of one key, or of a path of keys in nested maps."""
    if not isinstance(message, dict):
        return _MISSING
    if path in message:
        return message[path]
    head, _, rest = path.partition("/")
    return _look_up(message[head], rest) if rest and head in message else _MISSING


def describe_keys(message: Any) -> str:
    """The keys of a message, nested ones as paths, shortened."""
    if not isinstance(message, dict):
        return f"a {type(message).__name__}"
    paths: list[str] = []
    for key, value in message.items():
        nested = value if isinstance(value, dict) else {}
        paths += [f"{key}/{name}" for name in nested] or [str(key)]
    return (", ".join(paths) or "no keys")[:400]
