"""The report of a comparison: figures as JSON, tables as Markdown, success as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e0_lightning.comparison.chart import draw
from e0_lightning.comparison.records import ACTING, TRAINING
from e0_lightning.comparison.runs import PLAYED, Variant
from e0_lightning.comparison.tables import Table
from e0_lightning.evaluation.results_store import Key, key, to_result
from e0_lightning.metrics import paired_difference, wilson
from e0_lightning.types import EpisodeResult

Figures = dict[str, Any]

COLUMNS = {
    "act_seconds": ("`act`, ms", 1e3, ".1f"),
    "action_error": ("action error", 1, ".4f"),
    "steps_per_second": ("steps/s", 1, ".2f"),
    "seconds": ("training, min", 1 / 60, ".1f"),
    "peak_memory": ("peak memory, GiB", 2**-30, ".2f"),
    "parameters": ("parameters, M", 1e-6, ".2f"),
}
"""Figure to heading, unit and format; those of training are told where a variant was trained."""

NOTES = (
    "Success is over all episodes, errors counted as failures, with Wilson's 95 % interval.",
    "Differences are to the first row, episode by episode on the same seeds, with Newcombe's 95 % "
    "interval for paired proportions (method 10); with many rows one in twenty misses the truth.",
    "One training run a variant: intervals tell of episodes, not of what another seed would train.",
    "Action error: mean absolute error on held-out windows, robot units. `act`: median time of a "
    "decision for one observation, variants one at a time. Training: without validation, "
    "what interruptions made it do again not counted. Peak memory: of the training process, main "
    "memory where there is no GPU.",
)


def write_report(tables: Sequence[Table], variants: Mapping[str, Variant], folder: Path) -> str:
    """Write ``report.json``, ``report.md`` and ``report.png`` of what is finished.

    Args:
        tables: What stands where.
        variants: All of them, by name.
        folder: Where to.

    Returns:
        The tables.
    """
    played = {name: _episodes(variant) for name, variant in variants.items()}
    found: Figures = {
        "about": _about(variants),
        "tables": [
            {"title": table.title, "base": table.base, "rows": _rows(table, variants, played)}
            for table in tables
        ],
    }
    text = markdown(found)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    (folder / "report.md").write_text(text)
    draw(found["tables"], folder / "report.png")
    return text


def markdown(found: Figures) -> str:
    """The tables that people read."""
    lines: list[str] = []
    for table in found["tables"]:
        lines += [f"## {table['title']}", "", *_table(table), ""]
        if missing := [name for name, row in table["rows"].items() if not row]:
            lines += [f"Not finished: {', '.join(missing)}.", ""]
    told = [f"{name.replace('_', ' ')}: {value}" for name, value in found["about"].items()]
    return "\n".join([*lines, *(f"- {line}" for line in [*told, *NOTES])]) + "\n"


def _table(table: Figures) -> list[str]:
    tasks = sorted({task for row in table["rows"].values() for task in row.get("tasks", [])})
    shown = tasks if len(tasks) > 1 else []
    base = table["base"]
    heads = ["", "success", "95 % interval", *shown, f"less {base}", "95 % interval", "episodes"]
    heads += [heading for heading, _, _ in COLUMNS.values()]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, row in table["rows"].items():
        if row:
            cells = [name, *_success(row, shown), *_difference(row.get("difference"))]
            cells += [str(row["n"]), *(_number(row, figure) for figure in COLUMNS)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _success(row: Figures, tasks: Sequence[str]) -> list[str]:
    each = [f"{row['tasks'][task]:.1%}" if task in row["tasks"] else "" for task in tasks]
    return [f"{row['rate']:.1%}", f"{row['low']:.1%} – {row['high']:.1%}", *each]


def _difference(found: Figures | None) -> list[str]:
    if found is None:
        return ["", ""]
    points = {name: 100 * found[name] for name in ("difference", "low", "high")}
    return [f"{points['difference']:+.1f}", f"{points['low']:+.1f} – {points['high']:+.1f}"]


def _number(row: Figures, figure: str) -> str:
    _, unit, form = COLUMNS[figure]
    return "" if row.get(figure) is None else format(row[figure] * unit, form)


def _rows(
    table: Table, variants: Mapping[str, Variant], played: Mapping[str, dict[Key, EpisodeResult]]
) -> dict[str, Figures]:
    """Figures of each variant, none where its episodes are not played yet."""
    rows: dict[str, Figures] = {}
    for name in table.names:
        rows[name] = _row(variants[name], played[name]) if played[name] else {}
        base = played[table.base]
        if rows[name] and name != table.base:
            shared = sorted(base.keys() & played[name].keys())
            successes = [[of[each].success for each in shared] for of in (played[name], base)]
            rows[name]["difference"] = paired_difference(*successes)._asdict() if shared else None
    return rows


def _row(variant: Variant, episodes: dict[Key, EpisodeResult]) -> Figures:
    successes = [each.success for each in episodes.values()]
    training = _read(variant.folder / TRAINING)
    if training:
        training["steps_per_second"] = training["steps"] / training["seconds"]
    return {
        **wilson(sum(successes), len(successes))._asdict(),
        "errors": sum(bool(each.error) for each in episodes.values()),
        "tasks": {task: _rate(task, episodes) for task in sorted({t for t, *_ in episodes})},
        "options": variant.words,
        "trained_as": variant.trained_as.name if variant.trained_as else None,
        **training,
        **_read(variant.folder / ACTING),
    }


def _rate(task: str, episodes: dict[Key, EpisodeResult]) -> float:
    own = [each.success for each in episodes.values() if each.task == task]
    return sum(own) / len(own)


def _episodes(variant: Variant) -> dict[Key, EpisodeResult]:
    found = _read(variant.folder / PLAYED).get("episodes", [])
    return {key(result): result for result in map(to_result, found)}


def _about(variants: Mapping[str, Variant]) -> Figures:
    """What all variants have in common."""
    first, *_ = variants.values()
    told: Figures = {"benchmark": ", ".join(first.budget.experiment)}
    trainings = [t for each in variants.values() if (t := _read(each.folder / TRAINING))]
    for name in ("steps", "batch_size", "device", "threads"):
        told[name] = ", ".join(sorted({str(training[name]) for training in trainings}))
    reports = [r for each in variants.values() if (r := _read(each.folder / PLAYED))]
    for report in reports[:1]:
        told["n_action_steps"] = report.get("n_action_steps")
        told["versions"] = ", ".join(f"{n} {v}" for n, v in report["versions"].items())
    return told


def _read(path: Path) -> Figures:
    found: Figures = json.loads(path.read_text()) if path.exists() else {}
    return found
