"""A key map for a file of unknown layout, with comments where a person must decide."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import h5py

from e0_lightning.inspection.layout_search import FileContent, find_content


def propose_key_map(file: h5py.File) -> str:
    """Write a key map for a file.

    Returns:
        YAML with the fields of :class:`~e0_lightning.key_map.KeyMap`; it reads the file as it is
        if actions were found.
    """
    content = find_content(file)
    modes = "such as joint_position, joint_velocity, ee_pose_absolute or ee_pose_delta"
    rate = f"{content.rate:g}" if content.rate else ""
    lines = [
        "# Proposed: check every line, and the pictures of --out report.html.",
        *_mapping("images", content.views, "no frames in color were found"),
        *_mapping("state", content.state, "no numbers of each step were found"),
        *_actions(content),
        _line("instruction", _scalar(content.instruction), "[]", "no sentence was found"),
        _line("control_mode", _scalar(content.control_mode), '""', f"FILL IN: {modes}"),
        _line("rate", rate, "0", "FILL IN: steps per second, Hz"),
        *_file(content),
    ]
    return "\n".join(lines) + "\n"


def _actions(content: FileContent) -> list[str]:
    parts = content.actions.parts
    if not parts:
        numbers = ", ".join(content.state.values())
        return [f'actions: ""  # FILL IN; numbers of each step: {numbers}']
    if len(parts) == 1:
        return [f"actions: {_scalar(path)}" for path in parts.values()]
    _, *lines = _mapping("actions", parts)
    return ["actions:  # concatenated: keep those that the controller takes", *lines]


def _file(content: FileContent) -> list[str]:
    lines = [f"  demos: {_scalar(content.actions.demos)}"] if content.actions.demos else []
    lines += [f"  success: {_scalar(content.success)}"] if content.success else []
    lines += ["  color: rgb  # bgr if red and blue are swapped"] if content.is_encoded else []
    return ["file:", *lines] if lines else []


def _mapping(name: str, entries: Mapping[str, str], missing: str = "") -> list[str]:
    if not entries:
        return [f"{name}: {{}}  # {missing}"]
    return [f"{name}:", *(f"  {_scalar(key)}: {_scalar(path)}" for key, path in entries.items())]


def _line(name: str, value: str, blank: str, hint: str) -> str:
    return f"{name}: {value}" if value else f"{name}: {blank}  # {hint}"


def _scalar(text: str) -> str:
    """A string in YAML, quoted where it must be."""
    return text if re.fullmatch(r"|[A-Za-z_/][\w/.*-]*", text) else json.dumps(text)
