"""`e0 merge`: combines reports of parts of an evaluation, such as one suite per machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from e0_lightning.evaluation.report.report_files import write_report
from e0_lightning.evaluation.report.video import video_file
from e0_lightning.evaluation.results_store import TASK_CONDITIONS, Key, key, to_result
from e0_lightning.types import EpisodeResult

SHARED = ("checkpoint_sha256", "policy", "n_action_steps", "assets", "versions")
"""Entries in which all parts must agree."""

COMPUTED = {"date", "tasks", "mean", "mean_score", "suites", "cameras", "episodes"}
"""Entries that are computed from the episodes."""


def merge(reports: list[Path], out: Path) -> None:
    """Combine reports of the same checkpoint under the same conditions.

    An episode in several of them counts once, a result without an error before one with an error.
    Videos are copied if they are inside the folder of their report.

    Args:
        reports: Folders with ``results.json``.
        out: Folder of the combined report.

    Raises:
        ValueError: If a folder has no report, or the reports are incompatible.
    """
    if not reports:
        raise ValueError("reports: expected folders with a results.json, got an empty list.")
    folders, out = [Path(folder) for folder in reports], Path(out)
    parts = [_read(folder) for folder in folders]
    merged: dict[str, Any] = {}
    for folder, part in zip(folders, parts, strict=True):
        _check_compatible(folder, part, folders[0], parts[0], merged)
        for name, value in part.items():
            known = merged.get(name)
            if name == "notes":
                value = list(dict.fromkeys([*(known or []), *value]))
            merged[name] = {**known, **value} if isinstance(known, dict) else value
    results: dict[Key, tuple[EpisodeResult, Path]] = {}
    for folder, part in zip(folders, parts, strict=True):
        for result in map(to_result, part["episodes"]):
            known_result = results.get(key(result))
            if known_result is None or (known_result[0].error and not result.error):
                results[key(result)] = result, folder
    kept = {name: value for name, value in merged.items() if name not in COMPUTED}
    print(write_report(out, [_with_video(*results[each], out) for each in sorted(results)], kept))


def _check_compatible(
    folder: Path, part: dict[str, Any], first_folder: Path, first: dict[str, Any], merged: Any
) -> None:
    for name in SHARED:
        if differing := _differences(part.get(name), first.get(name), name):
            raise ValueError(
                f"expected parts of one evaluation, got {folder} and {first_folder}, which differ "
                f"in {'; '.join(differing)}."
            )
    for name in TASK_CONDITIONS:
        known, own = merged.get(name, {}), part.get(name, {})
        # A task may be missing in one of them, as without another instruction than its own.
        for task in sorted(merged.get("tasks", {}).keys() & part["tasks"].keys()):
            if known.get(task) != own.get(task):
                raise ValueError(
                    f"expected parts of one evaluation, got {name} {own.get(task)} for {task} in "
                    f"{folder} and {known.get(task)} in another."
                )


def _with_video(result: EpisodeResult, folder: Path, out: Path) -> EpisodeResult:
    """Copy the video of a result from its report's folder to `out`; without one if not inside."""
    source = video_file(folder, {"video": result.video})
    if source is None:
        return replace(result, video=None)
    target = out / source.relative_to(folder.resolve())
    if target.resolve() != source:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return replace(result, video=str(target))


def _differences(one: Any, other: Any, name: str) -> list[str]:
    """Differences of two values, leaf by leaf, such as ``policy.seed: 0 and 1``."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            line
            for key in keys
            for line in _differences(one.get(key), other.get(key), f"{name}.{key}")
        ]
    return [] if one == other else [f"{name}: {one} and {other}"]


def _read(folder: Path) -> dict[str, Any]:
    try:
        if not (folder / "results.json").is_file():
            raise OSError("no such file")
        report: dict[str, Any] = json.loads((folder / "results.json").read_text())
        if not isinstance(report["episodes"], list):
            raise TypeError("its episodes are not a list")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: expected the results.json of `lightning test`, got none or a damaged one "
            f"({error})."
        ) from error
    return report
