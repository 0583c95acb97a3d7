"""Report of a comparison: numbers as JSON, tables as Markdown, success rates as a chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e0_lightning.comparison.chart import plot_success
from e0_lightning.comparison.records import TRAINING, VALIDATION
from e0_lightning.comparison.runs import EVALUATION, Variant
from e0_lightning.comparison.tables import Table
from e0_lightning.evaluation.results_store import Key, key, to_result
from e0_lightning.metrics import paired_difference, wilson
from e0_lightning.types import EpisodeResult

Values = dict[str, Any]
Episodes = dict[Key, EpisodeResult]

COLUMNS = {
    "act_seconds": ("`act`, ms", 1e3, ".1f"),
    "action_l1": ("action L1", 1, ".4f"),
    "steps_per_second": ("steps/s", 1, ".2f"),
    "seconds": ("training, min", 1 / 60, ".1f"),
    "peak_memory": ("peak memory, GiB", 2**-30, ".2f"),
    "parameters": ("parameters, M", 1e-6, ".2f"),
}
"""Value to heading, factor and format; those of the training only where a variant was trained."""

NOTES = (
    "Success is the rate over all episodes, errors counted as failures, with Wilson's 95 % "
    "interval.",
    "Differences are to the baseline (first row), paired by episode, with Newcombe's 95 % interval "
    "for paired proportions (method 10); of many such intervals one in twenty misses the true "
    "difference.",
    "One training run per variant: intervals cover the variation between episodes, not between "
    "training seeds.",
    "Action L1: mean absolute error on held-out chunks, robot units. `act`: median latency for one "
    "observation, variants one at a time. Training: without validation and without steps that were "
    "repeated after an interruption. Peak memory: of the training process, main memory where there "
    "is no GPU.",
)


def write_report(tables: Sequence[Table], variants: Mapping[str, Variant], folder: Path) -> str:
    """Write ``report.json``, ``report.md`` and ``report.png`` for everything that is finished.

    Args:
        tables: Tables of the report.
        variants: Their variants by name.
        folder: Output folder.

    Returns:
        The report as Markdown.
    """
    episodes = {name: _read_episodes(variant) for name, variant in variants.items()}
    report: Values = {
        "about": _common_settings(variants),
        "tables": [
            {
                "title": table.title,
                "baseline": table.baseline,
                "rows": _rows(table, variants, episodes),
            }
            for table in tables
        ],
    }
    text = to_markdown(report)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "report.md").write_text(text)
    plot_success(report["tables"], folder / "report.png")
    return text


def to_markdown(report: Values) -> str:
    """Format a report as Markdown."""
    lines: list[str] = []
    for table in report["tables"]:
        lines += [f"## {table['title']}", "", *_table_lines(table), ""]
        if missing := [name for name, row in table["rows"].items() if not row]:
            lines += [f"Not finished: {', '.join(missing)}.", ""]
    about = [f"{name.replace('_', ' ')}: {value}" for name, value in report["about"].items()]
    return "\n".join([*lines, *(f"- {line}" for line in [*about, *NOTES])]) + "\n"


def _table_lines(table: Values) -> list[str]:
    tasks = sorted({task for row in table["rows"].values() for task in row.get("tasks", [])})
    task_columns = tasks if len(tasks) > 1 else []
    heads = ["variant", "success", "95 % interval", *task_columns]
    heads += [f"difference to {table['baseline']}", "95 % interval", "episodes"]
    heads += [heading for heading, _, _ in COLUMNS.values()]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, row in table["rows"].items():
        if row:
            cells = [name, *_success_cells(row, task_columns)]
            cells += _difference_cells(row.get("difference"))
            cells += [str(row["n"]), *(_cell(row, column) for column in COLUMNS)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _success_cells(row: Values, tasks: Sequence[str]) -> list[str]:
    by_task = [f"{row['tasks'][task]:.1%}" if task in row["tasks"] else "" for task in tasks]
    return [f"{row['rate']:.1%}", f"{row['low']:.1%} – {row['high']:.1%}", *by_task]


def _difference_cells(difference: Values | None) -> list[str]:
    if difference is None:
        return ["", ""]
    points = {name: 100 * difference[name] for name in ("difference", "low", "high")}
    return [f"{points['difference']:+.1f}", f"{points['low']:+.1f} – {points['high']:+.1f}"]


def _cell(row: Values, column: str) -> str:
    _, factor, form = COLUMNS[column]
    return "" if row.get(column) is None else format(row[column] * factor, form)


def _rows(
    table: Table, variants: Mapping[str, Variant], episodes: Mapping[str, Episodes]
) -> dict[str, Values]:
    """Return the values of each variant, empty where it is not evaluated yet."""
    rows: dict[str, Values] = {}
    for name in table.names:
        rows[name] = _row(variants[name], episodes[name]) if episodes[name] else {}
        baseline = episodes[table.baseline]
        if rows[name] and name != table.baseline:
            shared = sorted(baseline.keys() & episodes[name].keys())
            pairs = [[own[each].success for each in shared] for own in (episodes[name], baseline)]
            rows[name]["difference"] = paired_difference(*pairs)._asdict() if shared else None
    return rows


def _row(variant: Variant, episodes: Episodes) -> Values:
    successes = [each.success for each in episodes.values()]
    training = _read(variant.folder / TRAINING)
    if training:
        training["steps_per_second"] = training["steps"] / training["seconds"]
    return {
        **wilson(sum(successes), len(successes))._asdict(),
        "errors": sum(bool(each.error) for each in episodes.values()),
        "tasks": {
            task: _success_rate(task, episodes) for task in sorted({t for t, *_ in episodes})
        },
        "overrides": variant.overrides,
        "trained_as": variant.trained_as.name if variant.trained_as else None,
        **training,
        **_read(variant.folder / VALIDATION),
    }


def _success_rate(task: str, episodes: Episodes) -> float:
    successes = [each.success for each in episodes.values() if each.task == task]
    return sum(successes) / len(successes)


def _read_episodes(variant: Variant) -> Episodes:
    entries = _read(variant.folder / EVALUATION).get("episodes", [])
    return {key(result): result for result in map(to_result, entries)}


def _common_settings(variants: Mapping[str, Variant]) -> Values:
    """Return the settings that all variants share."""
    first, *_ = variants.values()
    settings: Values = {"benchmark": ", ".join(first.budget.experiment)}
    trainings = [t for each in variants.values() if (t := _read(each.folder / TRAINING))]
    for name in ("steps", "batch_size", "device", "threads"):
        settings[name] = ", ".join(sorted({str(training[name]) for training in trainings}))
    evaluations = [e for each in variants.values() if (e := _read(each.folder / EVALUATION))]
    if evaluations:
        settings["n_action_steps"] = evaluations[0].get("n_action_steps")
        versions = evaluations[0]["versions"]
        settings["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return settings


def _read(path: Path) -> Values:
    values: Values = json.loads(path.read_text()) if path.exists() else {}
    return values
