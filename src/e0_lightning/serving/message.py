"""Looking up keys in the messages of clients."""

from __future__ import annotations

from typing import Any

from e0_lightning.serving.limits import shorten

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
