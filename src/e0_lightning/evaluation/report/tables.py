"""The report as Markdown, ``results.md``."""

from __future__ import annotations

import re
from typing import Any

from e0_lightning.evaluation.statistics import Summary

SETTINGS = ("checkpoint", "training_step", "first_seed", "n_action_steps", "num_envs", "assets")
"""Entries of a report that are listed below its tables, with ``renderer`` and the versions."""


def markdown(report: dict[str, Any]) -> str:
    """Tables of scores and success rates, settings of the evaluation, episodes with errors.

    Args:
        report: The contents of ``results.json``.
    """
    tasks, max_steps = report["tasks"], report.get("max_steps", {})
    lines = _head("task", tasks, "mean steps", "max steps")
    for task, summary in tasks.items():
        steps = [f"{summary['mean_steps']:.0f}", escape(max_steps.get(task, ""))]
        lines.append(_row(task, summary, tasks, *steps))
    if len(tasks) > 1:
        score = f" {report['mean_score']:.3f} | |" if has_scores(tasks) else ""
        lines.append(f"| mean of tasks |{score} {report['mean']:.1%} | | | | | |")
    lines += _suites(report.get("suites", {}))
    if cameras := report.get("cameras"):
        lines += ["", *_head("camera", cameras)]
        lines += [_row(camera, summary, cameras) for camera, summary in cameras.items()]
    if flags := describe_flags(tasks):
        lines += ["", "Flags at the end of an episode:", *(f"- {escape(line)}" for line in flags)]
    lines += ["", *(f"- {escape(line)}" for line in describe(report))]
    failed = [episode for episode in report["episodes"] if episode["error"]]
    if failed:
        lines += ["", "Episodes with errors, counted as failures:"]
        lines += [
            escape(f"- {each['task']}, seed {each['seed']}: {each['error']}") for each in failed
        ]
    return "\n".join(lines) + "\n"


def describe(report: dict[str, Any]) -> list[str]:
    """Settings of the evaluation, one per line, and reasons why rates may not be comparable."""
    names = [name for name in (*SETTINGS, "renderer") if report.get(name) is not None]
    lines = [f"{name.replace('_', ' ')}: {report[name]}" for name in names]
    lines.append(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    return [*lines, *report.get("notes", [])]


def describe_flags(tasks: dict[str, Summary]) -> list[str]:
    """Shares of the episodes, and of the successes, that end with a flag, one flag per line."""
    lines = []
    for task, summary in tasks.items():
        for name, shares in summary.get("flags", {}).items():
            parts = [
                f"{share['rate']:.1%} ({_interval(share, '.1%')}) of {share['n']} {group}"
                for group, share in shares.items()
            ]
            lines.append(f"{task}, {name}: {', '.join(parts)}")
    return lines


def has_scores(summaries: dict[str, Summary]) -> bool:
    """Whether a table of these summaries has columns for the score."""
    return any("score" in summary for summary in summaries.values())


def published_methods(suites: dict[str, Summary]) -> list[str]:
    """Methods with published rates for any of the suites."""
    rates = [summary.get("published", {}) for summary in suites.values()]
    return list(dict.fromkeys(method for by_method in rates for method in by_method))


def escape(text: object) -> str:
    """Escape text for a table or a list of Markdown: no markup, HTML or line breaks survive."""
    one_line = re.sub(r"\s+", " ", str(text))
    return re.sub(r"([\\`*\[\]|<>&])", r"\\\1", one_line)


def _suites(suites: dict[str, Summary]) -> list[str]:
    if not suites:
        return []
    methods = published_methods(suites)
    lines = ["", *_head("suite", suites, *methods)]
    for suite, summary in suites.items():
        rates = [summary.get("published", {}).get(method) for method in methods]
        cells = ["" if rate is None else f"{rate:.1%}" for rate in rates]
        lines.append(_row(suite, summary, suites, *cells))
    return lines


def _head(name: str, summaries: dict[str, Summary], *more: str) -> list[str]:
    names = [name, *(["score", "95 % interval"] if has_scores(summaries) else [])]
    names += ["success", "95 % interval", "episodes", "errors", *map(escape, more)]
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


def _row(name: str, summary: Summary, summaries: dict[str, Summary], *more: str) -> str:
    cells = [escape(name)]
    if has_scores(summaries):
        score = summary.get("score")
        cells += [f"{score['mean']:.3f}", _interval(score, ".3f")] if score else ["", ""]
    cells += [f"{summary['rate']:.1%}", _interval(summary, ".1%")]
    cells += [str(summary["n"]), str(summary["errors"]), *more]
    return f"| {' | '.join(cells)} |"


def _interval(summary: Summary, form: str) -> str:
    return f"{summary['low']:{form}} – {summary['high']:{form}}"
