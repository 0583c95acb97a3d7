"""The report as one HTML page that opens from disk and loads nothing from the network."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from e0_lightning.evaluation.report.tables import (
    describe,
    describe_flags,
    has_scores,
    published_methods,
)
from e0_lightning.evaluation.report.video import representative_videos, video_file

HISTOGRAM_BINS = 20
"""Bins of the histogram of episode lengths."""

SHOWN = (
    "tasks",
    "suites",
    "cameras",
    "episodes",
    "notes",
    "published",
    "date",
    "mean",
    "mean_score",
)
"""Entries of a report that are displayed elsewhere than in its configuration."""


def render_page(report: dict[str, Any], folder: Path) -> str:
    """Render a report.

    Args:
        report: The contents of ``results.json``.
        folder: Folder of the report, whose videos are embedded and linked.

    Returns:
        HTML; style, charts and representative videos are embedded, all videos are linked.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("e0_lightning", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    episodes = report["episodes"]
    configuration = {name: value for name, value in report.items() if name not in SHOWN}
    return environment.get_template("evaluation/report/html_report.html.j2").render(
        report=report,
        headline=_headline(report),
        has_scores=has_scores,
        suites=report.get("suites", {}),
        cameras=report.get("cameras", {}),
        methods=published_methods(report.get("suites", {})),
        histogram=_histogram(episodes),
        embedded=_embedded(folder, episodes),
        links=_links(folder, episodes),
        failed=[episode for episode in episodes if episode["error"]],
        flags=describe_flags(report["tasks"]),
        settings=describe({**report, "notes": []}),
        configuration=json.dumps(configuration, indent=2, default=str),
    )


def _headline(report: dict[str, Any]) -> str:
    """Mean score, where the tasks have one, and success rate."""
    success = f"success {100 * report['mean']:.1f} %"
    score = report.get("mean_score")
    return success.capitalize() if score is None else f"Score {score:.3f}, {success}"


def _histogram(episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bars of the histogram of lengths: steps from and to, successes, failures, heights in %."""
    longest = max(episode["steps"] for episode in episodes)
    width = -(-(longest + 1) // HISTOGRAM_BINS)
    counts = [[0, 0] for _ in range(longest // width + 1)]
    for episode in episodes:
        counts[episode["steps"] // width][not episode["success"]] += 1
    tallest = max(sum(count) for count in counts)
    return [
        {
            "first": index * width,
            "last": (index + 1) * width - 1,
            "successes": successes,
            "failures": failures,
            "success_height": 95 * successes / tallest,
            "failure_height": 95 * failures / tallest,
        }
        for index, (successes, failures) in enumerate(counts)
    ]


def _embedded(folder: Path, episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Representative videos, base64-encoded, with their captions."""
    return [
        {
            "caption": f"{task}, {outcome}, seed {episode['seed']}",
            "data": base64.b64encode(path.read_bytes()).decode(),
        }
        for (task, outcome), episode in representative_videos(folder, episodes).items()
        if (path := video_file(folder, episode)) is not None
    ]


def _links(folder: Path, episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every episode with a video, with a link to the file relative to the page."""
    return [
        {**episode, "href": quote(path.relative_to(folder.resolve()).as_posix())}
        for episode in episodes
        if (path := video_file(folder, episode)) is not None
    ]
