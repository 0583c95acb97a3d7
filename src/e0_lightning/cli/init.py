"""`e0 init`: a config that trains on demonstrations of one's own at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from e0_lightning.comparison.experiment_files import find_experiment
from e0_lightning.data.formats.base import DemoReader
from e0_lightning.data.formats.detect import UnknownFormat
from e0_lightning.data.sources import DemoSource, find_demos
from e0_lightning.inspection.choices import choose_horizon, choose_state, choose_views
from e0_lightning.inspection.demo_set import DemoSet, Inventory, read_sources
from e0_lightning.inspection.description import sentences
from e0_lightning.inspection.motion import acts_by_changes
from e0_lightning.inspection.relative_choice import choose_relative

BASE = "base.yaml"
"""Experiment that the config completes."""


def init(
    paths: list[str],
    out: Path,
    instruction: str | None = None,
    reader: type[DemoReader] | None = None,
    key_map: str | None = None,
) -> None:
    """Write a config that trains on demonstrations with ``lightning fit --config OUT``.

    It is ``experiments/base.yaml`` with what follows from the demonstrations: views and their
    sizes, state parts, horizon, relative actions. Comments mark what a person should decide.

    Args:
        paths: Files of demonstrations, glob patterns, or URLs that fsspec reads.
        out: The config to write.
        instruction: Instruction of all demonstrations; needed where files have none.
        reader: Class that reads the files, such as ``my_module.MyReader``; detected if None.
        key_map: Name or YAML file of their key map; detected if None.

    Raises:
        ValueError: If a demonstration cannot be read or has no instruction, files differ in their
            specs, or ``out`` exists.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already. Remove it, or name another file in --out.")
    sources = [DemoSource(path, None, instruction, reader, key_map) for path in paths]
    demo_set = _merge(read_sources(sources))
    if instruction is None and not sentences(demo_set):
        raise ValueError(
            f"{demo_set.first.path}: expected an instruction for every demonstration, got none in "
            "the files. Give one: --instruction 'open the drawer'."
        )
    text = write_config(demo_set, sources, out.stem)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(f"{out}: train with `lightning fit --config {out}`, after a look at its comments.")


def write_config(demo_set: DemoSet, sources: list[DemoSource], name: str) -> str:
    """The text of a config.

    Args:
        demo_set: All demonstrations.
        sources: The entries that they come from.
        name: Name of the folder of its runs.
    """
    views, (state, left_out) = choose_views(demo_set), choose_state(demo_set)
    horizon, why = choose_horizon(demo_set)
    relative = choose_relative(demo_set, state)
    data = {
        "demos": ([_entry(source) for source in sources], ""),
        "views": (views.views, views.comment),
        "state": (state, f"also recorded: {', '.join(left_out)}" if left_out else ""),
    }
    lines = [f"    {key}: {_yaml(value)}{_comment(text)}" for key, (value, text) in data.items()]
    text = (
        find_experiment(BASE)
        .read_text()
        .replace(
            "  class_path: RobotDemos\n  init_args:\n",
            "\n".join(["  class_path: RobotDemos", "  init_args:", *lines, ""]),
        )
    )
    text = _replace(text, r"# .*", f"# {_title(demo_set)}")
    text = _replace(text, r"default_root_dir: .*", f"default_root_dir: runs/{name}")
    text = _replace(text, r"horizon: .*", f"horizon: {horizon}{_comment(why)}")
    text = _replace(text, r"relative: .*", f"relative: {_yaml(relative)}{_why(demo_set, relative)}")
    vision = r"vision: .*" if views.size is None else r"(?<= )size: \d+"
    text = _replace(text, vision, "vision: null" if views.size is None else f"size: {views.size}")
    if min(_count(demo_set, source) for source in sources) < 2:
        text = _replace(text, r"val_fraction: .*", "val_fraction: 0 # one demonstration")
    return text


def _merge(inventory: Inventory) -> DemoSet:
    """All files as one set.

    Raises:
        ValueError: If one cannot be read, or two differ in their specs.
    """
    for path, error in inventory.errors.items():
        if isinstance(error, UnknownFormat):
            raise ValueError(
                f"{path}: its layout is not known. `e0 inspect {path}` proposes a key map: save "
                "it, and give it by --key_map."
            ) from error
        raise error
    first, *others = inventory.sets
    merged = DemoSet([], [], [], [])
    for each in [first, *others]:
        first.spec.check_compatible(each.spec, first.first.path, each.first.path)
        merged.readers += each.readers
        merged.demos += each.demos
        merged.problems += each.problems
    if merged.problems:
        raise ValueError(f"{merged.problems[0]} `e0 inspect` lists all problems.")
    return merged


def _title(demo_set: DemoSet) -> str:
    tasks = ", ".join(dict.fromkeys(reader.task for reader in demo_set.readers))
    mode = demo_set.spec.control_mode or "an unknown control mode (name it in the key map)"
    count = len(demo_set.demos)
    return f"E0 on {count} demonstrations of {tasks} in {mode}; written by `e0 init`."


def _why(demo_set: DemoSet, relative: dict[str, Any] | None) -> str:
    if relative is not None:
        return _comment("to the state that they are targets of; grippers stay absolute")
    if acts_by_changes(demo_set):
        return _comment("actions are displacements already")
    return _comment("no action stays near a dimension of the state")


def _entry(source: DemoSource) -> str | dict[str, str]:
    options = {"instruction": source.instruction, "key_map": source.key_map}
    if source.reader is not None:
        options["reader"] = f"{source.reader.__module__}.{source.reader.__qualname__}"
    given = {name: value for name, value in options.items() if value is not None}
    return {"path": source.path, **given} if given else source.path


def _count(demo_set: DemoSet, source: DemoSource) -> int:
    files = set(find_demos(source))
    return sum(demo.reader.path in files for demo in demo_set.demos)


def _replace(text: str, pattern: str, line: str) -> str:
    changed, count = re.subn(pattern, lambda _: line, text, count=1)
    assert count == 1, f"{BASE} has no {pattern}"
    return changed


def _yaml(value: Any) -> str:
    import yaml

    if value is None:
        return "null"
    options = {"default_flow_style": True, "sort_keys": False, "allow_unicode": True}
    text: str = yaml.safe_dump(value, width=1_000_000, **options)
    return text.strip()


def _comment(text: str) -> str:
    return f" # {text}" if text else ""
