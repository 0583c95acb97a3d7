"""Report of a comparison: numbers as JSON, tables as Markdown, success rates as a chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from e0_lightning.comparison.chart import plot_success
from e0_lightning.comparison.intervals import success_difference, success_rate
from e0_lightning.comparison.records import TRAINING, VALIDATION
from e0_lightning.comparison.runs import EVALUATION, Variant
from e0_lightning.comparison.tables import Table
from e0_lightning.evaluation.results_store import Key, key, to_result
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
    "One training per variant: intervals cover the variation between episodes, not between "
    "trainings. Several: means over them, intervals over trainings and episodes (Student's "
    "quantile, Satterthwaite's degrees of freedom), or as above over all episodes where that is "
    "wider.",
    "Action L1: mean absolute error on held-out chunks, robot units. `act`: median latency for one "
    "observation, variants one at a time. Training: without validation and without steps that were "
    "repeated after an interruption. Peak memory: of the training process, main memory where there "
    "is no GPU.",
)


@dataclass(frozen=True)
class Training:
    """What is recorded of one training of a variant, empty as long as it is not finished."""

    variant: Variant
    episodes: Episodes
    values: Values


def write_report(
    tables: Sequence[Table], trainings: Sequence[Mapping[str, Variant]], folder: Path
) -> str:
    """Write ``report.json``, ``report.md`` and ``report.png`` for everything that is finished.

    Args:
        tables: Tables of the report.
        trainings: For each training seed the variants by name.
        folder: Output folder.

    Returns:
        The report as Markdown.
    """
    recorded = {name: [_recorded(each[name]) for each in trainings] for name in trainings[0]}
    report: Values = {
        "about": _common_settings([each for own in trainings for each in own.values()]),
        "tables": [
            {
                "title": table.title,
                "baseline": table.baseline,
                "rows": _rows(table, recorded),
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
    heads += [f"difference to {table['baseline']}", "95 % interval", "trainings", "episodes"]
    heads += [heading for heading, _, _ in COLUMNS.values()]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, row in table["rows"].items():
        if row:
            cells = [name, *_success_cells(row, task_columns)]
            cells += _difference_cells(row.get("difference"))
            cells += [
                str(row["trainings"]),
                str(row["n"]),
                *(_cell(row, column) for column in COLUMNS),
            ]
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


def _rows(table: Table, recorded: Mapping[str, Sequence[Training]]) -> dict[str, Values]:
    """Return the values of each variant, empty where it is not evaluated yet."""
    rows: dict[str, Values] = {}
    for name in table.names:
        evaluated = [each for each in recorded[name] if each.episodes]
        rows[name] = _row(evaluated) if evaluated else {}
        pairs = [
            pair
            for pair in zip(recorded[name], recorded[table.baseline], strict=True)
            if pair[0].episodes and pair[1].episodes
        ]
        if pairs and name != table.baseline:
            rows[name]["difference"] = _difference(pairs)
    return rows


def _row(trainings: Sequence[Training]) -> Values:
    variant = trainings[0].variant
    results = [each for training in trainings for each in training.episodes.values()]
    tasks = sorted({each.task for each in results})
    return {
        **success_rate(_successes(trainings))._asdict(),
        "trainings": len(trainings),
        "errors": sum(bool(each.error) for each in results),
        "tasks": {task: _success_rate(task, results) for task in tasks},
        "overrides": variant.overrides,
        "trained_as": variant.trained_as.name if variant.trained_as else None,
        **_means([training.values for training in trainings]),
    }


def _difference(pairs: Sequence[tuple[Training, Training]]) -> Values | None:
    """Return the difference to the baseline, trainings of one seed and one episode paired."""
    own, baseline = zip(*pairs, strict=True)
    shared = _shared([*own, *baseline])
    if not shared:
        return None
    return success_difference(_successes(own, shared), _successes(baseline, shared))._asdict()


def _successes(
    trainings: Sequence[Training], keys: Sequence[Key] | None = None
) -> list[list[bool]]:
    """Return the successes of each training in the episodes that all of them share."""
    chosen = _shared(trainings) if keys is None else keys
    return [[training.episodes[key].success for key in chosen] for training in trainings]


def _shared(trainings: Sequence[Training]) -> list[Key]:
    return sorted(set.intersection(*(set(training.episodes) for training in trainings)))


def _means(values: Sequence[Values]) -> Values:
    """Return means of numbers over trainings; of other values those of the first training."""
    first, *_ = values
    return {
        name: fmean(each[name] for each in values) if isinstance(value, float) else value
        for name, value in first.items()
        if all(name in each for each in values)
    }


def _success_rate(task: str, results: Sequence[EpisodeResult]) -> float:
    return fmean(each.success for each in results if each.task == task)


def _recorded(variant: Variant) -> Training:
    entries = _read(variant.folder / EVALUATION).get("episodes", [])
    values = {**_read(variant.folder / TRAINING), **_read(variant.folder / VALIDATION)}
    if "seconds" in values:
        values["steps_per_second"] = values["steps"] / values["seconds"]
    return Training(variant, {key(result): result for result in map(to_result, entries)}, values)


def _common_settings(variants: Sequence[Variant]) -> Values:
    """Return the settings that all variants share."""
    benchmarks = list(dict.fromkeys(", ".join(each.budget.experiment) for each in variants))
    settings: Values = {"benchmark": "; ".join(benchmarks)}
    trainings = [t for each in variants if (t := _read(each.folder / TRAINING))]
    for name in ("steps", "batch_size", "device", "threads"):
        settings[name] = ", ".join(sorted({str(training[name]) for training in trainings}))
    evaluations = [e for each in variants if (e := _read(each.folder / EVALUATION))]
    if evaluations:
        settings["n_action_steps"] = evaluations[0].get("n_action_steps")
        versions = evaluations[0]["versions"]
        settings["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return settings


def _read(path: Path) -> Values:
    values: Values = json.loads(path.read_text()) if path.exists() else {}
    return values
