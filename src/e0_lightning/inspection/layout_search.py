"""Search of a file of unknown layout for actions, frames, state and sentences.

Names, shapes and encodings of the data sets decide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import h5py
import numpy as np

from e0_lightning.data.formats.encoded import find_encoding
from e0_lightning.data.formats.frames import is_colored, is_vector
from e0_lightning.data.formats.hdf5 import find, members
from e0_lightning.data.formats.lookup import read_text
from e0_lightning.inspection.tree import find_datasets

ACTION = (
    *("action", "actions", "command", "commands", "cmd", "target", "targets"),
    *("control", "ctrl", "master", "leader"),
)
"""Words for actions, the most certain first."""

DEMO = ("demo", "episode", "ep", "traj", "trajectory", "trial", "rollout", "run")
LANGUAGE = ("instruction", "instructions", "language", "lang", "prompt", "sentence", "task")
RATE = ("fps", "hz", "freq", "frequency", "rate")
TIME = ("time", "times", "timestamp", "timestamps", "stamp")
SUCCESS = ("success", "succeeded", "successful")
NO_STATE = (
    *(*TIME, *SUCCESS, "reward", "rewards", "done", "dones", "terminated", "truncated"),
    *("terminal", "discount", "step", "steps", "index", "first", "last", "depth"),
)
"""Words of data sets that are no state of the robot."""

PICTURE = ("rgb", "color", "colors", "image", "images", "img", "frame", "frames", "data", "raw")
"""Names of frames that do not name their camera."""

MAX_DIMS = 64
"""Numbers of a step up to which a data set is proposed as state."""


class Actions(NamedTuple):
    """Where the actions of a file are."""

    demos: str
    """Pattern of the groups of demonstrations; empty if the file is one."""
    demo: str
    """Path of the first of them."""
    parts: dict[str, str]
    """Name to path from there; several where a group divides the actions."""


@dataclass(frozen=True)
class FileContent:
    """What was found in a file; paths start at a demonstration.

    Args:
        actions: The actions.
        views: View to path of its frames.
        state: State part to path.
        instruction: Key of the sentence, empty if none was found.
        control_mode: What the file says of its controller, empty if nothing.
        rate: Steps per second, Hz; 0 if it is not known.
        success: Key of a flag of success, empty if there is none.
        is_encoded: Whether some frames are JPEG or PNG.
    """

    actions: Actions
    views: dict[str, str]
    state: dict[str, str]
    instruction: str
    control_mode: str
    rate: float
    success: str
    is_encoded: bool


def find_content(file: h5py.File) -> FileContent:
    """Search a file."""
    actions = _find_actions(file)
    group = file[actions.demo] if actions.demo else file
    datasets = find_datasets(group, width=MAX_DIMS)
    paths = list(actions.parts.values())
    steps = len(datasets[paths[0]]) if paths else _common_length(datasets)
    views = _name_views([p for p, d in datasets.items() if is_colored(d) and _fits(d, steps)])
    flags = [*(f"attrs/{name}" for name in group.attrs), *datasets]
    return FileContent(
        actions,
        views,
        _name_parts(_find_state(datasets, steps, paths)),
        _find_instruction(group, datasets),
        _find_control_mode(group),
        _find_rate(group, datasets, steps),
        next((key for key in flags if set(_words(key)) & set(SUCCESS)), ""),
        any(find_encoding(datasets[path]) for path in views.values()),
    )


def _find_actions(file: h5py.File) -> Actions:
    """The data set that is named most like actions, and the level of groups that repeats."""
    ranked = sorted(
        (rank, path)
        for path, dataset in find_datasets(file).items()
        if _is_numbers(dataset) and (rank := _rank(path)) is not None
    )
    if not ranked:
        return Actions("", "", {})
    (certainty, *_), best = ranked[0]
    demos, demo = _find_demos(file, best)
    inside = best.removeprefix(demo).strip("/")
    if certainty < 2:
        return Actions(demos, demo, {"actions": inside})
    parent, length = best.rpartition("/")[0], len(file[best])
    parts = [path for _, path in ranked if path.rpartition("/")[0] == parent]
    alike = sorted(path for path in parts if len(file[path]) == length)
    inner = [path.removeprefix(demo).strip("/") for path in alike]
    return Actions(demos, demo, _name_parts(inner))


def _rank(path: str) -> tuple[int, int, int] | None:
    """How certainly a path leads to actions, smaller is more; None if it does not."""
    *groups, name = path.split("/")
    for certainty, words in enumerate(([name], [name], groups)):
        tokens = {token for word in words for token in _words(word)}
        order = [i for i, word in enumerate(ACTION) if word in tokens]
        if order and (certainty or _words(name) == [ACTION[order[0]]]):
            return certainty, order[0], path.count("/")
    return None


def _find_demos(file: h5py.File, path: str) -> tuple[str, str]:
    """Pattern of the groups of demonstrations, and the one that a path leads through."""
    parts = path.split("/")
    numbered = [i for i, part in enumerate(parts[:-1]) if re.search(r"\d", part)]
    repeated = [i for i in numbered if len(_siblings(file, parts, i)) > 1]
    named = [i for i in numbered if set(_words(parts[i])) & set(DEMO) or not _words(parts[i])]
    if not repeated and not named:
        return "", ""
    level = (repeated or named)[0]
    prefix = re.match(r"\D*", parts[level])
    prefixes = {prefix[0] if prefix else ""}
    if not all(name.startswith(tuple(prefixes)) for name in _siblings(file, parts, level)):
        prefixes = {""}
    pattern = "/".join([*parts[:level], f"{prefixes.pop()}*"])
    return pattern, "/".join(parts[: level + 1])


def _siblings(file: h5py.File, parts: list[str], level: int) -> list[str]:
    """Numbered groups beside one that have the same member."""
    parent = file["/".join(parts[:level])] if level else file
    inside = "/".join(parts[level + 1 :])
    return [
        name
        for name, member in members(parent).items()
        if isinstance(member, h5py.Group) and re.search(r"\d", name) and find(member, inside)
    ]


def _find_state(datasets: Mapping[str, h5py.Dataset], steps: int, actions: list[str]) -> list[str]:
    beside = {path.rpartition("/")[0] for path in actions if len(actions) > 1}
    return [
        path
        for path, dataset in datasets.items()
        if path not in actions
        and path.rpartition("/")[0] not in beside - {""}
        and not set(_words(path)) & set(NO_STATE)
        and (is_vector(dataset, steps) or is_vector(dataset, steps + 1))
        and np.prod(dataset.shape[1:], dtype=int) <= MAX_DIMS
    ]


def _name_views(paths: list[str]) -> dict[str, str]:
    """View to path, named by the last part of the path that is no word for a picture."""
    names = []
    for path in paths:
        parts = [part for part in path.split("/") if part.lower() not in PICTURE]
        names.append(parts[-1] if parts else path.rpartition("/")[2])
    return _unique(names, paths)


def _name_parts(paths: list[str]) -> dict[str, str]:
    return _unique([path.rpartition("/")[2] for path in paths], paths)


def _unique(names: list[str], paths: list[str]) -> dict[str, str]:
    """Name to path, the whole path as the name where two are called the same."""
    return {
        path.replace("/", "_") if names.count(name) > 1 else name: path
        for name, path in zip(names, paths, strict=True)
    }


def _find_instruction(group: h5py.Group, datasets: Mapping[str, h5py.Dataset]) -> str:
    """Key of a sentence, rather than of a single word."""
    texts = [(f"attrs/{key}", text) for key, text in _texts(group.attrs)]
    texts += [(path, text) for path, d in datasets.items() if (text := read_text(d))]
    if group != (file := group.file):
        texts += [(f"/attrs/{key}", text) for key, text in _texts(file.attrs)]
        texts += [
            (f"/{path}", text)
            for path, member in members(file).items()
            if isinstance(member, h5py.Dataset) and (text := read_text(member))
        ]
    named = [(key, text) for key, text in texts if set(_words(key)) & set(LANGUAGE)]
    named.sort(key=lambda each: " " not in each[1])
    return named[0][0] if named else ""


def _texts(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Texts among attributes, and in the JSON that one holds."""
    for name, value in attributes.items():
        text = read_text(value)
        if text is None:
            continue
        yield name, text
        if text.startswith("{"):
            try:
                inside = json.loads(text)
            except json.JSONDecodeError:
                continue
            yield from ((f"{name}/{key}", v) for key, v in inside.items() if isinstance(v, str))


def _find_control_mode(group: h5py.Group) -> str:
    texts = [each for attributes in (group.attrs, group.file.attrs) for each in _texts(attributes)]
    modes = [text for name, text in texts if {"control", "controller"} & set(_words(name))]
    return modes[0] if modes and " " not in modes[0] else ""


def _find_rate(group: h5py.Group, datasets: Mapping[str, h5py.Dataset], steps: int) -> float:
    """Steps per second, from an attribute or the times of the steps; 0 if there is neither."""
    for attributes in (group.attrs, group.file.attrs):
        for name, value in attributes.items():
            if set(_words(name)) & set(RATE) and isinstance(value, int | float | np.number):
                return float(value)
    for path, dataset in datasets.items():
        if set(_words(path.rpartition("/")[2])) & set(TIME) and is_vector(dataset, steps):
            interval = float(np.median(np.diff(dataset[()].reshape(steps, -1)[:, 0])))
            units = (limit for limit in (1, 1e3, 1e6, 1e9) if 0 < interval / limit < 2)
            unit = next(units, None)
            return round(unit / interval, 1) if unit else 0
    return 0


def _is_numbers(dataset: h5py.Dataset) -> bool:
    """Whether a data set has a vector of numbers for each of several steps."""
    rows = dataset.shape[0] if dataset.shape else 0
    return rows > 1 and is_vector(dataset, rows)


def _fits(dataset: h5py.Dataset, steps: int) -> bool:
    return len(dataset) in (steps, steps + 1)


def _common_length(datasets: Mapping[str, h5py.Dataset]) -> int:
    lengths = [dataset.shape[0] for dataset in datasets.values() if dataset.shape]
    return max(lengths, key=lengths.count, default=0)


def _words(text: str) -> list[str]:
    """Lowercase words of a name."""
    return re.findall(r"[a-z]+", text.lower())
