"""The files of a report: ``results.json``, ``results.md`` and ``results.html``."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from e0_lightning.evaluation.report.html_report import render_page
from e0_lightning.evaluation.report.tables import markdown
from e0_lightning.evaluation.results_store import relative_to, write_atomic
from e0_lightning.evaluation.statistics import by_camera, by_suite, by_task, mean_of_scores
from e0_lightning.types import EpisodeResult


def write_report(folder: Path, results: Sequence[EpisodeResult], metadata: dict[str, Any]) -> str:
    """Write ``results.json``, ``results.md`` and ``results.html``.

    Args:
        folder: The folder to write to.
        results: Every episode once.
        metadata: Settings of the evaluation.

    Returns:
        The Markdown report.
    """
    tasks = by_task(results)
    episodes = [asdict(result) for result in results]
    for episode in episodes:
        if episode["video"] is not None:
            episode["video"] = relative_to(folder, episode["video"])
    report = {
        "date": datetime.now().astimezone().isoformat(" ", timespec="seconds"),
        "tasks": tasks,
        "mean": sum(task["rate"] for task in tasks.values()) / len(tasks),
        "mean_score": mean_of_scores(tasks),
        "suites": by_suite(results, metadata.get("published")),
        "cameras": by_camera(results),
        **metadata,
        "episodes": episodes,
    }
    text = markdown(report)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "results.json", json.dumps(report, indent=2) + "\n")
    write_atomic(folder / "results.md", text)
    write_atomic(folder / "results.html", render_page(report, folder))
    return text


def own_versions() -> dict[str, str]:
    """Versions of the packages that train and run the policy."""
    packages = ("e0-lightning", "torch", "lightning")
    return {name: importlib.metadata.version(name) for name in packages}
