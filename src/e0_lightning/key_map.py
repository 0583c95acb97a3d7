"""Key maps: where a file of demonstrations, and a client's observation, keep what a policy uses.

One YAML file serves both: ``demos: [{path: …, key_map: mine.yaml}]`` reads files with it, and
``e0 serve --key-map mine.yaml`` parses the observations of the same robot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

Keys = str | list[str]
"""A key, or several of which the first that exists is used.

A key is a path through groups of a file, or maps of a message. ``[a:b]`` behind it takes some of
the numbers, ``*`` stands for the name of a view or state part.
"""

Flip = Literal["vertical", "horizontal", "both"]
"""Upside down, mirrored left to right, or rotated by 180 degrees."""

SHIPPED = Path(__file__).with_name("keymaps")
"""Folder of the key maps that come with the package."""


@dataclass(frozen=True)
class FileLayout:
    """How files store demonstrations.

    Args:
        demos: Pattern of the groups that are demonstrations, such as ``data/demo_*``; the whole
            file is one if empty.
        ignore: Patterns of the names of files that are no demonstrations, left out of a glob.
        marks: Keys by which a file is detected, with their values; null for any value. Without
            marks, the key map is used by name only.
        lag: The action of an observation is this many rows after it: 1 where measured joints of the
            next step are the actions, -1 where observations are late by a step.
        color: Order of the channels of frames, of encoded ones after decoding.
        flips: View, or ``*`` for all, to how its frames are stored where they are not upright.
        inverted: Parts of state or actions in [0, 1] that are stored as 1 - x.
        keep: Flag of each step; steps where it is false are left out.
        success: Flag of a demonstration or of its steps; those without a true one are failures.
    """

    demos: str = ""
    ignore: list[str] = field(default_factory=list)
    marks: dict[str, Any] = field(default_factory=dict)
    lag: int = 0
    color: Literal["rgb", "bgr"] = "rgb"
    flips: dict[str, Flip] = field(default_factory=dict)
    inverted: list[str] = field(default_factory=list)
    keep: Keys = field(default_factory=list)
    success: Keys = field(default_factory=list)


@dataclass(frozen=True)
class ClientLayout:
    """What clients of a server send and expect.

    Args:
        flips: View, or ``*`` for all, to how its images arrive where they are not upright.
        inverted: State parts in [0, 1] that arrive as 1 - x.
        chunk_length: Fewest and most steps of a chunk that the client accepts; None is no bound.
        state_format: vla-eval's name of the state's format.
        observation_params: Parameters requested from vla-eval's benchmark.
        action_spec: Component to ``{dims, format, range}``, vla-eval's action spec.
    """

    flips: dict[str, Flip] = field(default_factory=dict)
    inverted: list[str] = field(default_factory=list)
    chunk_length: list[int | None] = field(default_factory=lambda: [None, None])
    state_format: str = "raw"
    observation_params: dict[str, Any] = field(default_factory=dict)
    action_spec: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyMap:
    """Keys of the parts of demonstrations and observations.

    Args:
        images: View to keys.
        state: State part to keys; or keys of all of the state, a part ``state`` in files.
        actions: Action part to keys, in the order of concatenation; or keys of all actions.
        instruction: Keys of the instruction.
        intrinsics: View to keys of its camera matrix, in files.
        control_mode: Robot controller that the actions are meant for.
        rate: Steps per second, Hz; 0 if it is not known.
        file: How files store demonstrations.
        client: What clients send and expect.
        name: Name of the key map, or path of its file.
    """

    images: dict[str, Keys] = field(default_factory=dict)
    state: dict[str, Keys] | Keys = field(default_factory=dict)
    actions: dict[str, Keys] | Keys = field(default_factory=dict)
    instruction: Keys = "prompt"
    intrinsics: dict[str, Keys] = field(default_factory=dict)
    control_mode: str = ""
    rate: float = 0
    file: FileLayout = field(default_factory=FileLayout)
    client: ClientLayout = field(default_factory=ClientLayout)
    name: str = ""


class Key(NamedTuple):
    """A key without its slice."""

    path: str
    part: slice
    """Which of the numbers under the path; all for a key without a slice."""


def parse_key(key: str) -> Key:
    """Divide ``path[a:b]`` into path and slice."""
    match = re.fullmatch(r"(.*)\[(\d*):(\d*)\]", key)
    if match is None:
        return Key(key, slice(None))
    start, stop = (int(number) if number else None for number in match.groups()[1:])
    return Key(match[1], slice(start, stop))


def as_list(keys: Keys) -> list[str]:
    """One key or several, as a list."""
    return [keys] if isinstance(keys, str) else list(keys)


def keys_for(mapping: Mapping[str, Keys], name: str, kind: str) -> list[str]:
    """The keys that a key map gives for a name.

    Args:
        mapping: Names, or ``*`` for any, to keys.
        name: Name of a view or a state part.
        kind: What it names, for errors.

    Raises:
        ValueError: If the key map has no key for it.
    """
    if name not in mapping and "*" not in mapping:
        raise ValueError(
            f"expected a key for the {kind} {name!r} in the key map, got keys for "
            f"{', '.join(mapping) or 'none'}. Write one ({name}: …) to a YAML file and use it as "
            "the key map."
        )
    if name in mapping:
        return as_list(mapping[name])
    return [key.replace("*", name) for key in as_list(mapping["*"])]


def load_key_map(name: str) -> KeyMap:
    """A key map by its name, or from a YAML file with the fields of :class:`KeyMap`.

    Raises:
        ValueError: If there is none of this name, the file is no YAML or has other fields.
    """
    if not name.endswith((".yaml", ".yml")):
        return _load_shipped(name)
    if not Path(name).is_file():
        raise ValueError(f"key map: expected a name or a YAML file, got no file at {name}.")
    return _load(Path(name), name)


def shipped_names() -> list[str]:
    """Names of the key maps that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


@cache
def _load_shipped(name: str) -> KeyMap:
    if name not in shipped_names():
        raise ValueError(
            f"key map: expected one of {', '.join(shipped_names())} or a YAML file, got {name!r}."
        )
    return _load(SHIPPED / f"{name}.yaml", name)


def _load(path: Path, name: str) -> KeyMap:
    import yaml

    try:
        content = _check_fields(yaml.safe_load(path.read_text()), KeyMap, name)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: expected YAML, got text that is none ({error}).") from error
    for section, kind in (("file", FileLayout), ("client", ClientLayout)):
        if section in content:
            content[section] = kind(**_check_fields(content[section], kind, f"{name}: {section}"))
    return KeyMap(**content, name=name)


def _check_fields(content: Any, kind: type[Any], where: str) -> dict[str, Any]:
    expected = [item.name for item in fields(kind) if item.name != "name"]
    got = list(content) if isinstance(content, dict) else [f"a {type(content).__name__}"]
    if not isinstance(content, dict) or not set(got) <= set(expected):
        raise ValueError(
            f"{where}: expected only fields among {', '.join(expected)}, got "
            f"{', '.join(map(str, got))}."
        )
    return content
