"""`e0 merge`: reports of parts of an evaluation, such as one suite on each machine, as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e0_lightning.evaluation.report.callback import write
from e0_lightning.evaluation.results_store import OF_TASK, key, to_result

SHARED = ("checkpoint_sha256", "policy", "n_action_steps", "assets", "versions")
"""What all parts must have in common."""

FIGURES = {"tasks", "mean", "suites", "cameras", "episodes"}
"""What is computed anew."""


def merge(reports: list[Path], out: Path) -> None:
    """Put reports of the same checkpoint under the same conditions together.

    An episode that several of them played counts once, one that did not break off before one
    that did.

    Args:
        reports: Folders with ``results.json``.
        out: Folder to write the common report in.

    Raises:
        ValueError: If there is no report in a folder, or they do not fit together.
    """
    if not reports:
        raise ValueError("reports: found an empty list; name folders with a results.json")
    found = [_read(Path(folder)) for folder in reports]
    told: dict[str, Any] = {}
    for folder, report in zip(reports, found, strict=True):
        for name in SHARED:
            if differing := _differing(report.get(name), found[0].get(name), name):
                raise ValueError(
                    f"{folder} and {reports[0]} differ in {'; '.join(differing)}: only parts of "
                    "one evaluation can be merged"
                )
        for name, value in report.items():
            known = told.get(name)
            if name in OF_TASK and known:
                for task in known.keys() & value.keys():
                    if known[task] != value[task]:
                        raise ValueError(
                            f"{folder} has {name} {value[task]} for {task}, others have "
                            f"{known[task]}; only parts of one evaluation can be merged"
                        )
            told[name] = {**known, **value} if isinstance(known, dict) else value
    episodes = [to_result(entry) for report in found for entry in report["episodes"]]
    once = {key(each): each for each in sorted(episodes, key=lambda each: not each.error)}
    kept = {name: value for name, value in told.items() if name not in FIGURES}
    print(write(Path(out), [once[each] for each in sorted(once)], kept))


def _differing(one: Any, other: Any, name: str) -> list[str]:
    """Where two values differ, leaf by leaf, such as ``policy.seed: 0 and 1``."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            line
            for key in keys
            for line in _differing(one.get(key), other.get(key), f"{name}.{key}")
        ]
    return [] if one == other else [f"{name}: {one} and {other}"]


def _read(folder: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads((folder / "results.json").read_text())
        _ = report["episodes"]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder}: found no whole report ({error}); a folder with the results.json of "
            "`lightning test` is wanted"
        ) from error
    return report
