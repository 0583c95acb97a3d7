"""Key maps: under which keys a client sends the views, the state and the instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from e0_lightning.serving.limits import shorten

Keys = str | list[str]
"""A key, or several of which the first present one is used; ``*`` stands for the spec's name."""


@dataclass(frozen=True)
class KeyMap:
    """Keys of a client's observations, and the chunks it expects.

    Args:
        images: View of the spec to keys.
        state: State part of the spec to keys, or keys of the concatenated state.
        state_slices: State part to its start and stop in the concatenated state, where that is not
            the spec's whole state in the spec's order.
        instruction: Keys of the instruction.
        mirrored: Views that arrive mirrored left to right and are mirrored back.
        inverted: State parts in [0, 1] that arrive as 1 - x.
        chunk_length: Fewest and most steps of a chunk that the client accepts; None is no bound.
        state_format: vla-eval's name of the state's format.
        observation_params: Parameters requested from vla-eval's benchmark.
        actions: Component to ``{dims, format, range}``, vla-eval's action spec.
    """

    images: dict[str, Keys] = field(default_factory=dict)
    state: dict[str, Keys] | Keys = field(default_factory=dict)
    state_slices: dict[str, list[int]] = field(default_factory=dict)
    instruction: Keys = "prompt"
    mirrored: list[str] = field(default_factory=list)
    inverted: list[str] = field(default_factory=list)
    chunk_length: list[int | None] = field(default_factory=lambda: [None, None])
    state_format: str = "raw"
    observation_params: dict[str, Any] = field(default_factory=dict)
    actions: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_key_map(name: str) -> KeyMap:
    """A key map by its name, or from a YAML file with the fields of :class:`KeyMap`.

    Raises:
        ValueError: If there is none of this name, or the file has other fields.
    """
    import yaml

    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"--key-map: expected a name or a YAML file, got no file at {name}.")
        content = yaml.safe_load(path.read_text())
    else:
        known = yaml.safe_load(Path(__file__).with_name("keymaps.yaml").read_text())
        if name not in known:
            raise ValueError(
                f"--key-map: expected one of {', '.join(known)} or a YAML file, got {name!r}."
            )
        content = known[name]
    expected = [item.name for item in fields(KeyMap)]
    if not isinstance(content, dict) or not set(content) <= set(expected):
        raise ValueError(
            f"{name}: expected only fields among {', '.join(expected)}, "
            f"got {describe_keys(content)}."
        )
    return KeyMap(**content)


def as_list(keys: Keys) -> list[str]:
    """One key or several, as a list."""
    return [keys] if isinstance(keys, str) else list(keys)


def keys_for(mapping: Mapping[str, Keys], name: str, kind: str) -> list[str]:
    """The keys that a key map gives for a name of the spec.

    Args:
        mapping: Names, or ``*`` for any, to keys.
        name: Name in the spec.
        kind: What it names, for errors.

    Raises:
        ValueError: If the key map has no key for it.
    """
    if name not in mapping and "*" not in mapping:
        raise ValueError(
            f"The policy needs the {kind} {name!r}; expected a key for it in the key map, got keys "
            f"for {', '.join(mapping) or 'none'}. Write one ({name}: …) to a YAML file and pass "
            "it as --key-map."
        )
    return [key.replace("*", name) for key in as_list(mapping.get(name, mapping.get("*", "")))]


_MISSING = object()


def find(message: dict[Any, Any], keys: list[str], content: str) -> tuple[str, Any]:
    """The first of several keys that a message has, and its value.

    Args:
        message: Observation of a client.
        keys: Keys or paths.
        content: What they hold, for errors.

    Raises:
        ValueError: If it has none of them.
    """
    for key in keys:
        value = _look_up(message, key)
        if value is not _MISSING:
            return key, value
    raise ValueError(
        f"expected {content} under {' or '.join(map(repr, keys))}, got {describe_keys(message)}."
    )


def has(message: dict[Any, Any], key: str) -> bool:
    """Whether a message has a key or path."""
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
    for key, value in list(message.items())[:20]:
        nested = list(value)[:20] if isinstance(value, dict) else []
        paths += [shorten(f"{key}/{name}", 80) for name in nested] or [shorten(str(key), 80)]
    return shorten(", ".join(paths) or "no keys", 300)
